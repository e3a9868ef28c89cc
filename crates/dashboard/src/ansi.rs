//! What a program wrote, made fit for a page: colours stay, everything else that steers a terminal goes.
//!
//! A line becomes a list of (text, class) pieces; the page makes a text node of each, so nothing in a line can become markup. Of escape
//! sequences only SGR ("select graphic rendition", ECMA-48 8.3.117) has a meaning here. Titles and links (OSC), cursor movements, C0 and
//! C1 controls and the characters that turn the direction of text are dropped, tabs become spaces.

use serde::Serialize;

/// Pieces of one line. More changes of colour than this are ignored: a line can be all escapes.
const PIECES: usize = 400;
const TAB: &str = "    ";

/// A piece of text and how it looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece(
    /// The text, without control characters.
    pub String,
    /// Class names, with spaces between them: `f1` to `f15` and `b0` to `b15` for the colours, `bold`, `dim`, `italic`, `under`, `strike`,
    /// `inverse`. Empty: plain.
    pub String,
);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Look {
    front: Option<u8>,
    back: Option<u8>,
    flags: u8,
}

const FLAGS: [(u8, &str); 6] = [(1, "bold"), (2, "dim"), (4, "italic"), (8, "under"), (16, "inverse"), (32, "strike")];

impl Look {
    fn class(self) -> String {
        let mut names = Vec::new();
        names.extend(self.front.map(|colour| format!("f{colour}")));
        names.extend(self.back.map(|colour| format!("b{colour}")));
        names.extend(FLAGS.iter().filter(|(bit, _)| self.flags & bit != 0).map(|&(_, name)| name.to_owned()));
        names.join(" ")
    }

    fn set(&mut self, parameters: &str) {
        let mut codes = parameters.split([';', ':']).map(|text| if text.is_empty() { Some(0) } else { text.parse::<u16>().ok() });
        while let Some(code) = codes.next() {
            match code {
                Some(0) => *self = Self::default(),
                Some(1) => self.flags |= 1,
                Some(2) => self.flags |= 2,
                Some(3) => self.flags |= 4,
                Some(4) => self.flags |= 8,
                Some(7) => self.flags |= 16,
                Some(9) => self.flags |= 32,
                Some(22) => self.flags &= !3,
                Some(23) => self.flags &= !4,
                Some(24) => self.flags &= !8,
                Some(27) => self.flags &= !16,
                Some(29) => self.flags &= !32,
                Some(code @ 30..=37) => self.front = Some((code - 30) as u8),
                Some(code @ 90..=97) => self.front = Some((code - 90 + 8) as u8),
                Some(code @ 40..=47) => self.back = Some((code - 40) as u8),
                Some(code @ 100..=107) => self.back = Some((code - 100 + 8) as u8),
                Some(39) => self.front = None,
                Some(49) => self.back = None,
                Some(38) => self.front = extended(&mut codes).or(self.front),
                Some(48) => self.back = extended(&mut codes).or(self.back),
                _ => {}
            }
        }
    }
}

/// The colour after 38 or 48, as the nearest of the sixteen: those have values for light and for dark pages that can be read.
fn extended(codes: &mut impl Iterator<Item = Option<u16>>) -> Option<u8> {
    match codes.next()?? {
        5 => match codes.next()?? {
            colour @ 0..=15 => Some(colour as u8),
            colour @ 16..=231 => {
                let level = |n: u16| if n == 0 { 0 } else { 55 + n * 40 };
                let index = colour - 16;
                Some(nearest(level(index / 36), level(index / 6 % 6), level(index % 6)))
            }
            colour @ 232..=255 => {
                let grey = 8 + (colour - 232) * 10;
                Some(nearest(grey, grey, grey))
            }
            _ => None,
        },
        2 => {
            let (red, green, blue) = (codes.next()??, codes.next()??, codes.next()??);
            Some(nearest(red.min(255), green.min(255), blue.min(255)))
        }
        _ => None,
    }
}

fn nearest(red: u16, green: u16, blue: u16) -> u8 {
    let (most, least) = (red.max(green).max(blue), red.min(green).min(blue));
    if most - least < 40 {
        return match most {
            0..=63 => 0,
            64..=143 => 8,
            144..=207 => 7,
            _ => 15,
        };
    }
    let middle = u16::midpoint(most, least);
    let bit = |value: u16, bit: u8| if value > middle { bit } else { 0 };
    let colour = bit(red, 1) | bit(green, 2) | bit(blue, 4);
    if most > 200 { colour + 8 } else { colour }
}

/// Characters that change the direction of the text around them (Unicode UAX 9), or that are invisible and no space: a line could say
/// something else than it shows.
fn is_deceiving(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{61c}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
        || ('\u{e0000}'..='\u{e0fff}').contains(&character)
}

/// Cuts a line into pieces.
pub fn pieces(line: &str) -> Vec<Piece> {
    let mut all: Vec<Piece> = Vec::new();
    let (mut look, mut text) = (Look::default(), String::with_capacity(line.len()));
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                let before = look;
                escape(&mut characters, &mut look);
                if look != before && !text.is_empty() && all.len() < PIECES {
                    all.push(Piece(std::mem::take(&mut text), before.class()));
                }
            }
            '\u{9b}' => control(&mut characters, &mut look),
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => string(&mut characters),
            '\t' => text.push_str(TAB),
            // A progress bar writes over its line: what counts is what stands there last.
            '\r' => {}
            character if character.is_control() || is_deceiving(character) => {}
            character => text.push(character),
        }
    }
    if !text.is_empty() {
        all.push(Piece(text, look.class()));
    }
    all
}

type Characters<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// After ESC.
fn escape(characters: &mut Characters<'_>, look: &mut Look) {
    match characters.peek() {
        Some('[') => {
            characters.next();
            control(characters, look);
        }
        // OSC, DCS, SOS, PM, APC: up to BEL or ST.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            characters.next();
            string(characters);
        }
        Some(' '..='/') => {
            while characters.next_if(|c| (' '..='/').contains(c)).is_some() {}
            characters.next();
        }
        Some('0'..='~') => {
            characters.next();
        }
        _ => {}
    }
}

/// After CSI: parameters, intermediates, and one final character.
fn control(characters: &mut Characters<'_>, look: &mut Look) {
    let mut parameters = String::new();
    let mut plain = true;
    while let Some(character) = characters.next_if(|c| (' '..='?').contains(c)) {
        plain &= matches!(character, '0'..='9' | ';' | ':');
        if parameters.len() < 256 {
            parameters.push(character);
        }
    }
    if let Some('m') = characters.next_if(|c| ('@'..='~').contains(c))
        && plain
    {
        look.set(&parameters);
    }
}

fn string(characters: &mut Characters<'_>) {
    while let Some(character) = characters.next() {
        match character {
            '\u{7}' | '\u{9c}' => return,
            '\u{1b}' if characters.peek() == Some(&'\\') => {
                characters.next();
                return;
            }
            _ => {}
        }
    }
}

/// How loud a line is, by the first word that says so in its head.
pub fn level(pieces: &[Piece]) -> Option<&'static str> {
    const WORDS: [(&str, &str); 13] = [
        ("ERROR", "error"),
        ("ERR", "error"),
        ("FATAL", "error"),
        ("CRITICAL", "error"),
        ("PANIC", "error"),
        ("Traceback", "error"),
        ("WARNING", "warn"),
        ("WARN", "warn"),
        ("INFO", "info"),
        ("NOTICE", "info"),
        ("DEBUG", "debug"),
        ("TRACE", "debug"),
        ("CRIT", "error"),
    ];
    let head: String = pieces.iter().flat_map(|piece| piece.0.chars()).take(100).collect();
    head.split(|c: char| !c.is_ascii_alphanumeric()).find_map(|word| {
        let lower = word.len() > 2 && word.chars().all(|c| c.is_ascii_lowercase());
        WORDS
            .iter()
            .find(|(name, _)| *name == word || (lower && name.eq_ignore_ascii_case(word) && is_marked(&head, word)))
            .map(|&(_, level)| level)
    })
}

/// A lower-case word says the level only where it stands as a mark: `[error]`, `error:`, `level=error`.
fn is_marked(head: &str, word: &str) -> bool {
    head.match_indices(word).any(|(at, _)| {
        let (before, after) = (head[..at].chars().next_back(), head[at + word.len()..].chars().next());
        matches!((before, after), (Some('['), Some(']')) | (None | Some(' '), Some(':')) | (Some('=' | '"'), _))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(line: &str) -> String {
        pieces(line).iter().map(|piece| piece.0.as_str()).collect()
    }

    #[test]
    fn colours_become_classes() {
        let all = pieces("a \u{1b}[1;31mred\u{1b}[0m b");
        assert_eq!(all, [Piece("a ".into(), String::new()), Piece("red".into(), "f1 bold".into()), Piece(" b".into(), String::new())]);
        assert_eq!(pieces("\u{1b}[38;5;196mx")[0].1, "f9");
        assert_eq!(pieces("\u{1b}[38;2;0;200;0mx")[0].1, "f2");
        assert_eq!(pieces("\u{1b}[48;5;240mx")[0].1, "b8");
        assert_eq!(pieces("\u{1b}[7mx\u{1b}[mY"), [Piece("x".into(), "inverse".into()), Piece("Y".into(), String::new())]);
    }

    #[test]
    fn everything_else_that_steers_goes() {
        for hostile in [
            "\u{1b}]0;title\u{7}x",
            "\u{1b}]8;;http://evil.example\u{1b}\\x\u{1b}]8;;\u{1b}\\",
            "\u{1b}[2J\u{1b}[Hx",
            "\u{1b}[?1049hx",
            "\u{9b}31mx",
            "\u{90}payload\u{9c}x",
            "\u{1b}P1$r\u{1b}\\x",
            "\u{1b}(Bx",
            "\u{1b}cx",
            "\u{7}\u{8}\u{0}x",
            "\u{202e}x\u{2066}",
            "\u{1b}[x",
            "x\u{1b}",
            "x\u{1b}[",
            "x\u{1b}]never ended",
        ] {
            let shown = plain(hostile);
            assert!(shown == "x" || hostile == "\u{1b}[x" && shown.is_empty(), "{hostile:?} shows {shown:?}");
        }
        assert_eq!(plain("<img src=x onerror=alert(1)>"), "<img src=x onerror=alert(1)>", "text stays text");
    }

    #[test]
    fn a_line_of_escapes_stays_small() {
        let all = pieces(&"\u{1b}[31ma\u{1b}[32mb".repeat(10_000));
        assert!(all.len() <= PIECES + 1, "{}", all.len());
    }

    #[test]
    fn no_control_character_survives() {
        for number in 0..0x3000_u32 {
            let Some(character) = char::from_u32(number) else { continue };
            let shown = plain(&format!("a{character}b"));
            assert!(!shown.chars().any(char::is_control), "{number:x}");
        }
    }

    #[test]
    fn levels() {
        let of = |line: &str| level(&pieces(line));
        assert_eq!(of("2026-01-01 12:00:00 ERROR no such table"), Some("error"));
        assert_eq!(of("\u{1b}[33mWARN\u{1b}[0m slow"), Some("warn"));
        assert_eq!(of("level=info msg=up"), Some("info"));
        assert_eq!(of("[error] 12#12: open() failed"), Some("error"));
        assert_eq!(of("GET /errors 200"), None);
        assert_eq!(of("no error was found"), None);
    }
}
