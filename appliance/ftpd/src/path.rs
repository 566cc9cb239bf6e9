//! What a path sent by a client means. Pure.
//!
//! There is one directory. libunftp joins paths to the working directory but leaves `..` in, and for MLST and STAT
//! does not join at all; as the working directory can only be the root, both come out right here.

use std::path::{Component, Path};

/// Where a path leads.
#[derive(Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// The one directory.
    Root,
    /// A name in it, which may or may not exist.
    Name(&'a str),
}

/// Resolves a path. `None`: no such place can exist. `..` is refused instead of followed: nothing here needs it.
pub fn resolve(path: &Path) -> Option<Place<'_>> {
    let mut place = Place::Root;
    for component in path.components() {
        match (component, &place) {
            (Component::RootDir | Component::CurDir, _) => {}
            (Component::Normal(name), Place::Root) => place = Place::Name(name.to_str()?),
            _ => return None,
        }
    }
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_root_and_names_in_it_exist() {
        for (path, expected) in [
            ("/", Some(Place::Root)),
            ("", Some(Place::Root)),
            (".", Some(Place::Root)),
            ("//./", Some(Place::Root)),
            ("/a.tar", Some(Place::Name("a.tar"))),
            ("a.tar", Some(Place::Name("a.tar"))),
            ("/./a.tar", Some(Place::Name("a.tar"))),
            ("..", None),
            ("/..", None),
            ("/../a.tar", None),
            ("/a.tar/..", None),
            ("/../../etc/passwd", None),
            ("/a/b", None),
            ("a.tar/a.tar", None),
        ] {
            assert_eq!(resolve(Path::new(path)), expected, "{path:?}");
        }
    }
}
