//! As much JSON as the handoff protocol needs: objects are read whole, flat ones are written.

use std::collections::BTreeMap;

/// Nothing in the protocol nests deeper than lists in an object; unknown members may.
const MAX_DEPTH: usize = 32;

/// A value. Numbers are kept as their text is, so that none loses a digit.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// true, false or null, which the protocol does not use.
    Word,
    /// As written.
    Number(String),
    /// Decoded.
    Text(String),
    /// In order.
    List(Vec<Value>),
    /// By name; of members with one name the last.
    Object(BTreeMap<String, Value>),
}

impl Value {
    /// The member of that name, if this is an object that has it.
    pub fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Object(members) => members.get(name),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is a whole one that is not negative.
    pub fn number(&self) -> Option<u64> {
        match self {
            Value::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// The texts of a list, if this is one.
    pub fn texts(&self) -> Option<Vec<String>> {
        match self {
            Value::List(items) => Some(items.iter().filter_map(Value::text).map(str::to_string).collect()),
            _ => None,
        }
    }
}

/// Reads one value and nothing else. None if that is not what the bytes are.
pub fn parse(data: &[u8]) -> Option<Value> {
    let mut parser = Parser { rest: std::str::from_utf8(data).ok()? };
    let value = parser.value(MAX_DEPTH)?;
    parser.blank().rest.is_empty().then_some(value)
}

/// A text as JSON.
pub fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c < ' ' => quoted += &format!("\\u{:04x}", u32::from(c)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn blank(&mut self) -> &mut Self {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        self
    }

    /// Takes `token`, after white space, if it comes next.
    fn take(&mut self, token: &str) -> Option<()> {
        self.rest = self.blank().rest.strip_prefix(token)?;
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        match self.blank().rest.chars().next()? {
            '"' => self.string().map(Value::Text),
            '{' => self.object(depth),
            '[' => self.list(depth),
            '-' | '0'..='9' => self.number(),
            _ => ["true", "false", "null"].iter().find_map(|word| self.take(word)).map(|()| Value::Word),
        }
    }

    fn object(&mut self, depth: usize) -> Option<Value> {
        self.take("{")?;
        let mut members = BTreeMap::new();
        if self.take("}").is_some() {
            return Some(Value::Object(members));
        }
        loop {
            self.blank();
            let name = self.string()?;
            self.take(":")?;
            members.insert(name, self.value(depth)?);
            if self.take(",").is_none() {
                return self.take("}").map(|()| Value::Object(members));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<Value> {
        self.take("[")?;
        let mut items = Vec::new();
        if self.take("]").is_some() {
            return Some(Value::List(items));
        }
        loop {
            items.push(self.value(depth)?);
            if self.take(",").is_none() {
                return self.take("]").map(|()| Value::List(items));
            }
        }
    }

    fn number(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        text.parse::<f64>().ok()?;
        self.rest = rest;
        Some(Value::Number(text.to_string()))
    }

    fn string(&mut self) -> Option<String> {
        self.rest = self.rest.strip_prefix('"')?;
        let mut text = String::new();
        loop {
            let c = self.next()?;
            match c {
                '"' => return Some(text),
                '\\' => text.push(self.escaped()?),
                c if c < ' ' => return None,
                c => text.push(c),
            }
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn escaped(&mut self) -> Option<char> {
        Some(match self.next()? {
            c @ ('"' | '\\' | '/') => c,
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => return self.unicode(),
            _ => return None,
        })
    }

    fn unicode(&mut self) -> Option<char> {
        let high = self.hex()?;
        if !(0xd800..0xdc00).contains(&high) {
            return char::from_u32(high);
        }
        self.rest = self.rest.strip_prefix("\\u")?;
        let low = self.hex()?;
        (0xdc00..0xe000).contains(&low).then_some(())?;
        char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
    }

    fn hex(&mut self) -> Option<u32> {
        let (digits, rest) = self.rest.split_at_checked(4)?;
        self.rest = rest;
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then_some(())?;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_welcome_may_be() {
        let text = r#" {"host":7,"features":["cache","address"],"epoch":"a\"\\\u00e9\ud83d\ude00/","x":{"y":[{},[],null,-1.5e3,true]},"empty":[]} "#;
        let value = parse(text.as_bytes()).unwrap();
        assert_eq!(value.get("host").unwrap().number(), Some(7));
        assert_eq!(value.get("features").unwrap().texts().unwrap(), ["cache", "address"]);
        assert_eq!(value.get("epoch").unwrap().text(), Some("a\"\\é😀/"));
        assert_eq!(value.get("nothing"), None);
        assert_eq!(value.get("epoch").unwrap().number(), None);
    }

    #[test]
    fn a_large_number_keeps_its_digits() {
        assert_eq!(parse(b"18446744073709551615").unwrap().number(), Some(u64::MAX));
        assert_eq!(parse(b"-1").unwrap().number(), None);
    }

    #[test]
    fn refuses_what_is_none() {
        let deep = "[".repeat(10_000);
        for text in [
            "",
            "{",
            "{}x",
            "[1,]",
            "{\"a\"}",
            "{\"a\":1,}",
            "\"\n\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\u+123\"",
            "\"\\u00\u{e9}\"",
            "1-2",
            "tru",
            &deep,
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse(b"\"\xff\""), None);
    }

    #[test]
    fn what_is_written_is_read() {
        let text = "a\"b\\c\n\u{1}é";
        assert_eq!(parse(quote(text).as_bytes()).unwrap().text(), Some(text));
    }
}
