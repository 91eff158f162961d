//! A rule's expression, held against no facts.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(expression) = text.parse::<wire::expr::Expr>()
    {
        let _ = expression.matches(&wire::Facts::new());
    }
});
