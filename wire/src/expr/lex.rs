//! From text to tokens.

use std::ops::Range;

use super::ExprError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A path or a keyword.
    Word(String),
    Text(String),
    Number(u64),
    /// One of `== != < <= > >= ( ) [ ] , ..`.
    Sign(&'static str),
    End,
}

/// Longer ones first, so that `<=` is not read as `<`.
const SIGNS: [&str; 12] = ["==", "!=", "<=", ">=", "<", ">", "(", ")", "[", "]", ",", ".."];

/// Units and what they multiply by.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("k", 1_000),
];

pub(super) fn unit_names() -> String {
    UNITS.map(|(name, _)| name).join(", ")
}

/// Reads a whole number with or without a unit: `8 GiB`, `500GB`, `4096`.
pub fn size(text: &str) -> Result<u64, ExprError> {
    let mut lexer = Lexer { text, at: 0 };
    match (lexer.token()?.0, lexer.token()?.0) {
        (Token::Number(number), Token::End) => Ok(number),
        _ => Err(ExprError::at(
            text,
            0,
            format!("expected a whole number, with one of the units {} or none", unit_names()),
        )),
    }
}

pub(super) struct Lexer<'a> {
    pub text: &'a str,
    pub at: usize,
}

impl Lexer<'_> {
    /// The next token and where it stands.
    pub fn token(&mut self) -> Result<(Token, Range<usize>), ExprError> {
        self.skip(char::is_whitespace);
        let start = self.at;
        let token = match self.rest().chars().next() {
            None => Token::End,
            Some('"' | '\'') => self.string()?,
            Some(c) if c.is_ascii_digit() => self.number()?,
            Some(c) if c.is_ascii_alphabetic() => Token::Word(self.word().to_owned()),
            Some(c) => self.sign(c)?,
        };
        Ok((token, start..self.at))
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip(&mut self, is: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches(is).len();
    }

    fn word(&mut self) -> &str {
        let start = self.at;
        self.skip(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        &self.text[start..self.at]
    }

    fn sign(&mut self, c: char) -> Result<Token, ExprError> {
        if let Some(sign) = SIGNS.into_iter().find(|sign| self.rest().starts_with(sign)) {
            self.at += sign.len();
            return Ok(Token::Sign(sign));
        }
        let hint = match c {
            '=' => "; to compare, write \"==\"",
            '!' => "; write \"not …\" or \"!=\"",
            '&' => "; write \"and\"",
            '|' => "; write \"or\"",
            '-' => "; numbers are not negative here",
            _ => "",
        };
        Err(ExprError::at(self.text, self.at, format!("unexpected {c:?}{hint}")))
    }

    fn string(&mut self) -> Result<Token, ExprError> {
        let start = self.at;
        let mut value = String::new();
        let mut chars = self.rest().char_indices();
        let quote = chars.next().map(|(_, c)| c);
        while let Some((i, c)) = chars.next() {
            match c {
                c if Some(c) == quote => {
                    self.at = start + i + 1;
                    return Ok(Token::Text(value));
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('\\' | '"' | '\''))) => value.push(c),
                    _ => {
                        let allowed = r#"after a backslash only \\, \" and \' are allowed"#;
                        return Err(ExprError::at(self.text, start + i, allowed));
                    }
                },
                c => value.push(c),
            }
        }
        Err(ExprError::at(self.text, start, "this text has no closing quote"))
    }

    fn number(&mut self) -> Result<Token, ExprError> {
        let start = self.at;
        self.skip(|c| c.is_ascii_digit());
        let digits = &self.text[start..self.at];
        let too_big =
            || ExprError::at(self.text, start, "this number is too big: 2^64 - 1 is most");
        let number: u64 = digits.parse().map_err(|_| too_big())?;
        if self.rest().starts_with('.') && !self.rest().starts_with("..") {
            let message = "only whole numbers: take a smaller unit, such as 1536 MiB for 1.5 GiB";
            return Err(ExprError::at(self.text, start, message));
        }
        let factor = self.unit()?;
        match number.checked_mul(factor) {
            Some(number) => Ok(Token::Number(number)),
            None => {
                Err(ExprError::at(self.text, start, "this number is too big: 2^64 - 1 is most"))
            }
        }
    }

    /// What a unit after a number multiplies by. A word that is parted from the
    /// number by a space and is no unit belongs to what follows.
    fn unit(&mut self) -> Result<u64, ExprError> {
        let after_digits = self.at;
        self.skip(|c| c == ' ');
        let start = self.at;
        // What stands before the ".." of a range: dots are of words otherwise.
        let word = self.word().split("..").next().unwrap_or_default().to_owned();
        self.at = start + word.len();
        if let Some((_, factor)) = UNITS.into_iter().find(|(name, _)| *name == word) {
            return Ok(factor);
        }
        if start == after_digits && !word.is_empty() {
            let message = format!("{word:?} is not a unit: use one of {}", unit_names());
            return Err(ExprError::at(self.text, start, message));
        }
        self.at = after_digits;
        Ok(1)
    }
}
