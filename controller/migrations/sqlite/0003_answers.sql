-- What was answered at the machine's console, by the names of the policy's questions.
ALTER TABLE machines ADD COLUMN answers TEXT NOT NULL DEFAULT '{}';
