//! Names of cached results: a digest over everything that went in.

use wire::Digest;

/// Collects what a result depends on. Every part is written with its label and
/// length, so that no two different collections have the same bytes.
pub(crate) struct Key(blake3::Hasher);

impl Key {
    /// `kind` names the sort of result and the version of the code that makes
    /// it: changed code is a new kind.
    pub fn new(kind: &str) -> Key {
        let mut key = Key(blake3::Hasher::new());
        key.part(kind.as_bytes());
        key
    }

    /// Adds one value.
    pub fn field(mut self, label: &str, value: impl AsRef<[u8]>) -> Key {
        self.part(label.as_bytes());
        self.part(value.as_ref());
        self
    }

    /// Adds several values.
    pub fn list<T: AsRef<[u8]>>(
        mut self,
        label: &str,
        values: impl ExactSizeIterator<Item = T>,
    ) -> Key {
        self.part(label.as_bytes());
        self.0.update(&(values.len() as u64).to_le_bytes());
        for value in values {
            self.part(value.as_ref());
        }
        self
    }

    /// The name.
    pub fn digest(self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }

    fn part(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_and_its_place_count() {
        let list = |values: &[&str]| Key::new("k").list("l", values.iter()).digest();
        let keys = [
            Key::new("k").digest(),
            Key::new("k2").digest(),
            Key::new("k").field("a", "b").digest(),
            Key::new("k").field("ab", "").digest(),
            Key::new("k").field("", "ab").digest(),
            Key::new("k").field("a", "b").field("c", "d").digest(),
            Key::new("k").field("c", "d").field("a", "b").digest(),
            list(&[]),
            list(&["x", "y"]),
            list(&["xy"]),
            list(&["y", "x"]),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b), "key {i} is there twice");
        }
        assert_eq!(list(&["x", "y"]), list(&["x", "y"]));
    }
}
