//! The two tokens of a dashboard, and the file that holds them: `dashboard.json` beside the control socket, for its user alone.
//!
//! One token looks, the other one acts as well. They live as long as the instance: a dashboard that is started again has the same, so an
//! open page goes on. Replacing the file replaces the tokens, and who came in by an old one is out.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use stayput_wire::runtime::DASHBOARD;

const TOKEN_BYTES: usize = 24;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Why the tokens could not be had.
#[derive(Debug)]
pub enum TokenError {
    /// A call on this path failed.
    Call(&'static str, PathBuf, std::io::Error),
    /// The file is somebody else's, open to others, or not what we wrote.
    NotOurs(PathBuf, &'static str),
    /// The kernel gave no random bytes.
    Random(Errno),
}

impl std::fmt::Display for TokenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Call(call, path, error) => write!(f, "{call} {}: {error}", path.display()),
            Self::NotOurs(path, why) => write!(f, "{} is not used: {why}", path.display()),
            Self::Random(error) => write!(f, "getrandom: {error}"),
        }
    }
}

impl std::error::Error for TokenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Call(_, _, error) => Some(error),
            Self::Random(error) => Some(error),
            Self::NotOurs(..) => None,
        }
    }
}

/// What a token lets its bearer do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look at everything, change nothing.
    View,
    /// Look, and start, stop, restart, reload, hold and release.
    Operate,
}

/// Both tokens, and where the page is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Its bearer may look.
    pub view: String,
    /// Its bearer may act.
    pub operate: String,
    /// Where the page is, as URLs that end with `/`; empty until a dashboard has bound.
    #[serde(default)]
    pub urls: Vec<String>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("urls", &self.urls).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Two new ones.
    ///
    /// # Errors
    /// [`TokenError::Random`].
    pub fn draw() -> Result<Self, TokenError> {
        Ok(Self { view: random()?, operate: random()?, urls: Vec::new() })
    }

    /// What a token allows; `None`: it is neither.
    pub fn role(&self, token: &str) -> Option<Role> {
        // Both are compared, whatever the first comparison says.
        let (operates, looks) = (same(token, &self.operate), same(token, &self.view));
        if operates { Some(Role::Operate) } else { looks.then_some(Role::View) }
    }

    /// Where the file of the instance with this control socket is.
    pub fn path(control: &Path) -> PathBuf {
        control.with_file_name(DASHBOARD)
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// [`TokenError`]: a file that others could have written or read is refused, not repaired.
    pub fn read(path: &Path) -> Result<Option<Self>, TokenError> {
        let call = |call| move |error| TokenError::Call(call, path.to_owned(), error);
        let not_ours = |why| Err(TokenError::NotOurs(path.to_owned(), why));
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let file = match std::fs::OpenOptions::new().read(true).custom_flags(nofollow).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(call("open")(error)),
        };
        let metadata = file.metadata().map_err(call("stat"))?;
        if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return not_ours("it belongs to somebody else");
        }
        if metadata.mode() & 0o077 != 0 {
            return not_ours("others may read it (chmod 600 closes it, but its tokens are known by now: delete it)");
        }
        if metadata.len() > 64 * 1024 {
            return not_ours("it is too long");
        }
        let tokens: Self = match serde_json::from_reader(std::io::BufReader::new(file)) {
            Ok(tokens) => tokens,
            Err(_) => return not_ours("it is not what a dashboard writes (delete it for new tokens)"),
        };
        // An empty token would be had by anyone who sends none.
        let fit = |token: &String| token.len() >= 32 && token.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if fit(&tokens.view) && fit(&tokens.operate) && tokens.view != tokens.operate {
            Ok(Some(tokens))
        } else {
            not_ours("its tokens are too short (delete it for new ones)")
        }
    }

    /// Writes the file: the old one or the new one is there, never a half.
    ///
    /// # Errors
    /// [`TokenError::Call`].
    pub fn write(&self, path: &Path) -> Result<(), TokenError> {
        let call = |call| move |error| TokenError::Call(call, path.to_owned(), error);
        let beside = path.with_extension(format!("{}.new", std::process::id()));
        let written = (|| {
            let _ = std::fs::remove_file(&beside);
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(&serde_json::to_vec(self)?)
        })();
        if let Err(error) = written.and_then(|()| std::fs::rename(&beside, path)) {
            let _ = std::fs::remove_file(&beside);
            return Err(call("write")(error));
        }
        Ok(())
    }
}

fn random() -> Result<String, TokenError> {
    let mut bytes = [0_u8; TOKEN_BYTES];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(TokenError::Random)?;
    // getrandom(2): up to 256 bytes come whole.
    if got != TOKEN_BYTES {
        return Err(TokenError::Random(Errno::IO));
    }
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
    Ok(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect())
}

/// Whether two texts are the same, in a time that depends on their lengths alone.
fn same(one: &str, other: &str) -> bool {
    let differ = one.bytes().zip(other.bytes()).fold(0_u8, |differ, (one, other)| std::hint::black_box(differ | (one ^ other)));
    one.len() == other.len() && differ == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_was_written_is_read_and_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = Tokens::path(&directory.path().join("control.sock"));
        assert_eq!(Tokens::read(&path).unwrap(), None);
        let tokens = Tokens::draw().unwrap();
        tokens.write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Tokens::read(&path).unwrap(), Some(tokens.clone()));
        assert_eq!(tokens.role(&tokens.view), Some(Role::View));
        assert_eq!(tokens.role(&tokens.operate), Some(Role::Operate));
        for wrong in ["", &tokens.view[1..], &format!("{}0", tokens.operate), "x"] {
            assert_eq!(tokens.role(wrong), None, "{wrong}");
        }
        assert!(!format!("{tokens:?}").contains(&tokens.operate), "tokens are not for logs");
    }

    #[test]
    fn a_file_that_others_could_read_or_that_is_empty_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dashboard.json");
        Tokens::draw().unwrap().write(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Tokens::read(&path), Err(TokenError::NotOurs(..))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        for content in ["", "{}", r#"{"view":"","operate":""}"#] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(Tokens::read(&path), Err(TokenError::NotOurs(..))), "{content}");
        }
        let link = directory.path().join("link.json");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(Tokens::read(&link).is_err(), "a link is not followed");
    }
}
