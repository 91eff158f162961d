//! Answers that take work to find, and that many ask for: a few are found at a
//! time, and the last ones are kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use wire::Digest;

use crate::read::ReadError;
use crate::storage::Content;

/// Answers that are worked on at a time: others have work to do, too.
const TURNS: usize = 2;
/// Bytes of answers that are kept.
const KEPT_BYTES: u64 = 64 << 20;

/// Bytes that are an answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// BLAKE3 of the content.
    pub name: Digest,
    pub len: u64,
    /// What messages call it.
    pub key: Arc<str>,
    pub content: Arc<Content>,
}

/// The answers that are kept, by what is asked for, and whose turn it is. An
/// answer comes with what tells whether it is still right.
pub(crate) struct Shelf<Q, C> {
    turns: Semaphore,
    kept: Mutex<Kept<Q, C>>,
}

/// The oldest first.
struct Kept<Q, C> {
    answers: VecDeque<(Q, Answer, C)>,
    bytes: u64,
}

impl<Q, C> Default for Shelf<Q, C> {
    fn default() -> Shelf<Q, C> {
        let kept = Kept { answers: VecDeque::new(), bytes: 0 };
        Shelf { turns: Semaphore::new(TURNS), kept: Mutex::new(kept) }
    }
}

impl<Q: PartialEq, C: Clone> Shelf<Q, C> {
    /// What is `known`, or else what `find` finds when it is our turn, with what
    /// was asked for by then; nothing, where the answer is not to be kept.
    pub(crate) async fn answer<K>(
        &self,
        known: impl Fn() -> K,
        find: impl Future<Output = Result<(Option<Q>, Answer, C), ReadError>>,
    ) -> Result<Answer, ReadError>
    where
        K: Future<Output = Result<Option<Answer>, ReadError>>,
    {
        if let Some(answer) = known().await? {
            return Ok(answer);
        }
        let _turn = self.turns.acquire().await.map_err(|_| ReadError::Broken)?;
        // Whoever was before us may have asked for the same.
        if let Some(answer) = known().await? {
            return Ok(answer);
        }
        let (asked, answer, context) = find.await?;
        if let Some(asked) = asked {
            self.put(asked, answer.clone(), context);
        }
        Ok(answer)
    }

    /// What is kept.
    pub(crate) fn get(&self, asked: &Q) -> Option<(Answer, C)> {
        let kept = self.kept();
        let mut known = kept.answers.iter().rev().filter(|(known, ..)| known == asked);
        known.next().map(|(_, answer, context)| (answer.clone(), context.clone()))
    }

    fn put(&self, asked: Q, answer: Answer, context: C) {
        let mut kept = self.kept();
        kept.bytes += answer.len;
        kept.answers.push_back((asked, answer, context));
        while kept.bytes > KEPT_BYTES {
            let Some((_, oldest, _)) = kept.answers.pop_front() else { break };
            kept.bytes -= oldest.len;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept<Q, C>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(len: u64) -> Answer {
        let name = store_format::digest_of(&len.to_le_bytes());
        let content = Arc::new(Content::Memory(vec![0; 5].into()));
        Answer { name, len, key: "an answer".into(), content }
    }

    #[test]
    fn the_last_answers_are_kept() {
        let shelf = Shelf::<u8, ()>::default();
        for number in 0..3 {
            shelf.put(number, answer(KEPT_BYTES / 2), ());
        }
        assert_eq!([0, 1, 2].map(|number| shelf.get(&number).is_some()), [false, true, true]);
        shelf.put(3, answer(KEPT_BYTES + 1), ());
        assert!((0..4).all(|number| shelf.get(&number).is_none()));
        assert_eq!(shelf.kept().bytes, 0);
    }

    #[tokio::test]
    async fn what_many_ask_for_is_found_once_while_it_is_right() {
        let shelf = Shelf::<u8, u8>::default();
        let found = std::cell::Cell::new(0);
        let ask = async |right: u8| {
            let known = async || match shelf.get(&7) {
                Some((answer, context)) if context == right => Ok(Some(answer)),
                _ => Ok(None),
            };
            let find = async {
                found.set(found.get() + 1);
                tokio::task::yield_now().await;
                Ok((Some(7), answer(9), right))
            };
            shelf.answer(known, find).await.unwrap().len
        };
        // Two have their turns at once, and nobody after them.
        assert_eq!(futures::future::join_all([1; 5].map(&ask)).await, [9; 5]);
        assert!((1..=2).contains(&found.get()));
        let before = found.get();
        ask(1).await;
        assert_eq!(found.get(), before);
        // No longer right, then known again.
        ask(2).await;
        ask(2).await;
        assert_eq!(found.get(), before + 1);
    }
}
