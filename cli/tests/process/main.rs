//! The real binary, as people and scripts meet it: what it prints, what it
//! ends with, what it leaves behind. No network but loopback, no root.

mod manners;
mod support;
