//! From tokens to a tree, by recursive descent.

use std::ops::Range;

use super::lex::{Lexer, Token, unit_names};
use super::{BYTES_MAX, Comparison, ExprError, NESTING_MAX, Node, Test, VALUES_MAX};
use crate::FactValue;

const KEYWORDS: [&str; 7] = ["and", "or", "not", "in", "like", "true", "false"];

pub(super) fn parse(text: &str) -> Result<Node, ExprError> {
    if text.len() > BYTES_MAX {
        let message = format!("{} bytes are too long: {BYTES_MAX} are most", text.len());
        return Err(ExprError::at(text, 0, message));
    }
    let mut lexer = Lexer { text, at: 0 };
    let (token, span) = lexer.token()?;
    let mut parser = Parser { lexer, token, span, last_end: 0, depth: 0 };
    let node = parser.any()?;
    match parser.token {
        Token::End => Ok(node),
        _ => Err(parser.unexpected("\"and\", \"or\" or the end")),
    }
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token that is looked at, and where it stands.
    token: Token,
    span: Range<usize>,
    /// Where the token before it ended.
    last_end: usize,
    depth: usize,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Node, ExprError> {
        let mut nodes = vec![self.all()?];
        while self.take_word("or")? {
            nodes.push(self.all()?);
        }
        Ok(one_or(nodes, Node::Any))
    }

    fn all(&mut self) -> Result<Node, ExprError> {
        let mut nodes = vec![self.term()?];
        while self.take_word("and")? {
            nodes.push(self.term()?);
        }
        Ok(one_or(nodes, Node::All))
    }

    fn term(&mut self) -> Result<Node, ExprError> {
        if self.depth == NESTING_MAX {
            let message = format!("nested too deeply: {NESTING_MAX} levels are most");
            return Err(self.error(message));
        }
        self.depth += 1;
        let node = if self.take_word("not")? {
            Node::Not(Box::new(self.term()?))
        } else if self.take_sign("(")? {
            let node = self.any()?;
            if !self.take_sign(")")? {
                return Err(self.unexpected("\"and\", \"or\" or \")\""));
            }
            node
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn comparison(&mut self) -> Result<Node, ExprError> {
        let start = self.span.start;
        let path = match &self.token {
            Token::Word(word) if is_path(word) => word.clone(),
            Token::Word(word) if !KEYWORDS.contains(&word.as_str()) => {
                let message = format!(
                    "{word:?} is not a fact: expected a path such as system.manufacturer or label.role"
                );
                return Err(self.error(message));
            }
            _ => {
                return Err(self.unexpected("a fact such as system.manufacturer, \"not\" or \"(\""));
            }
        };
        self.next()?;
        let test = self.test()?;
        Ok(Node::Compare(Comparison { path, test, span: start..self.last_end }))
    }

    fn test(&mut self) -> Result<Test, ExprError> {
        if self.take_word("in")? {
            return match self.token {
                Token::Number(_) => self.range(),
                _ => Ok(Test::In(self.values()?)),
            };
        }
        if self.take_word("like")? {
            let Token::Text(glob) = &self.token else {
                return Err(self.unexpected("a pattern in quotes, such as \"PowerEdge*\""));
            };
            let glob = glob.clone();
            self.next()?;
            return Ok(Test::Like(glob));
        }
        let sign = match self.token {
            Token::Sign(sign @ ("==" | "!=" | "<" | "<=" | ">" | ">=")) => sign,
            _ => return Err(self.unexpected("one of == != < <= > >= in like")),
        };
        self.next()?;
        Ok(match sign {
            "==" => Test::Equal(self.value()?),
            "!=" => Test::NotEqual(self.value()?),
            "<" => Test::Less(self.number(sign)?),
            "<=" => Test::AtMost(self.number(sign)?),
            ">" => Test::Greater(self.number(sign)?),
            _ => Test::AtLeast(self.number(sign)?),
        })
    }

    /// `400 GB .. 2 TB`, both ends within.
    fn range(&mut self) -> Result<Test, ExprError> {
        let start = self.span.start;
        let least = self.number("in")?;
        if !self.take_sign("..")? {
            return Err(self.unexpected("\"..\" and the end of the range"));
        }
        let most = self.number("..")?;
        if least > most {
            let message = format!("no number is in {least} .. {most}: the smaller one comes first");
            return Err(ExprError::at(self.lexer.text, start, message));
        }
        Ok(Test::Within(least, most))
    }

    fn values(&mut self) -> Result<Vec<FactValue>, ExprError> {
        if !self.take_sign("[")? {
            return Err(self.unexpected("\"[\""));
        }
        let mut values = vec![self.value()?];
        while self.take_sign(",")? {
            if self.token == Token::Sign("]") {
                break;
            }
            if values.len() == VALUES_MAX {
                return Err(self.error(format!("too many values: {VALUES_MAX} are most")));
            }
            values.push(self.value()?);
        }
        if !self.take_sign("]")? {
            return Err(self.unexpected("\",\" or \"]\""));
        }
        Ok(values)
    }

    fn value(&mut self) -> Result<FactValue, ExprError> {
        let value = match &self.token {
            Token::Text(text) => FactValue::Text(text.clone()),
            Token::Number(number) => FactValue::Number(*number),
            Token::Word(word) if word == "true" => FactValue::Bool(true),
            Token::Word(word) if word == "false" => FactValue::Bool(false),
            Token::Word(word) => {
                return Err(self.error(format!("texts stand in quotes: write {word:?}")));
            }
            _ => return Err(self.unexpected("a text in quotes, a number, true or false")),
        };
        self.next()?;
        Ok(value)
    }

    fn number(&mut self, sign: &str) -> Result<u64, ExprError> {
        match self.token {
            Token::Number(number) => {
                self.next()?;
                Ok(number)
            }
            _ => Err(self.unexpected(&format!("a number after {sign:?}"))),
        }
    }

    fn take_word(&mut self, word: &str) -> Result<bool, ExprError> {
        let found = matches!(&self.token, Token::Word(found) if found == word);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    fn take_sign(&mut self, sign: &str) -> Result<bool, ExprError> {
        let found = matches!(self.token, Token::Sign(found) if found == sign);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    fn next(&mut self) -> Result<(), ExprError> {
        self.last_end = self.span.end;
        (self.token, self.span) = self.lexer.token()?;
        Ok(())
    }

    fn error(&self, message: String) -> ExprError {
        ExprError::at(self.lexer.text, self.span.start, message)
    }

    fn unexpected(&self, expected: &str) -> ExprError {
        let found = match &self.token {
            Token::End => "the end".to_owned(),
            Token::Word(word) => format!("{word:?}"),
            Token::Text(text) => format!("the text {text:?}"),
            Token::Number(number) => format!("the number {number}"),
            Token::Sign(sign) => format!("{sign:?}"),
        };
        let after_number = self.lexer.text[..self.last_end].ends_with(|c: char| c.is_ascii_digit());
        let units = match &self.token {
            Token::Word(_) if after_number => format!(" (units are {})", unit_names()),
            _ => String::new(),
        };
        self.error(format!("expected {expected}, found {found}{units}"))
    }
}

fn one_or(mut nodes: Vec<Node>, many: fn(Vec<Node>) -> Node) -> Node {
    match nodes.pop() {
        Some(node) if nodes.is_empty() => node,
        last => {
            nodes.extend(last);
            many(nodes)
        }
    }
}

/// Words parted by dots, at least two of them.
fn is_path(word: &str) -> bool {
    let part = |part: &str| part.starts_with(|c: char| c.is_ascii_alphanumeric());
    word.contains('.') && word.split('.').all(part)
}
