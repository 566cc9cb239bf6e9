//! Why TLS with another machine does not come about, in words for who has to mend it.
//!
//! The library's own words name its types (`CaUsedAsEndEntity`). One function gives the words for every place that meets such
//! an error: the client of the control API, FTP of a restore, and the connection to the monitor.

use jiff::Timestamp;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};
use webpki::Error as Path;

/// Characters of names that come from a certificate.
const NAME_CHARACTERS: usize = 200;

/// Why TLS does not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsTrouble {
    /// The machine answers, and its certificate is not accepted here: somebody has to change a certificate or a clock.
    Certificate(String),
    /// Anything else.
    Handshake(String),
}

impl TlsTrouble {
    /// Of the library's error.
    pub fn of(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::Certificate(certificate(error)),
            error => Self::Handshake(handshake(error)),
        }
    }

    /// Of any error, if TLS is its cause.
    pub fn find(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(tls) = error.downcast_ref::<Error>() {
                return Some(Self::of(tls));
            }
            // An io::Error does not give the error that it holds as its source.
            next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
                Some(held) => Some(held),
                None => error.source(),
            };
        }
        None
    }

    /// The words, whose subject is the other machine.
    pub fn words(&self) -> &str {
        match self {
            Self::Certificate(words) | Self::Handshake(words) => words,
        }
    }
}

fn certificate(error: &CertificateError) -> String {
    use CertificateError as Refused;
    match error {
        Refused::ExpiredContext { time, not_after } => format!(
            "its certificate has expired at {}, and the clock here says {}; renew the certificate, or set the clock",
            at(*not_after),
            at(*time)
        ),
        Refused::Expired => "its certificate has expired; renew it".into(),
        Refused::NotValidYetContext { time, not_before } => format!(
            "its certificate is valid from {} on only, and the clock here says {}; compare the clocks of both machines",
            at(*not_before),
            at(*time)
        ),
        Refused::NotValidYet => "its certificate is not valid yet; compare the clocks of both machines".into(),
        Refused::NotValidForNameContext { expected, presented } => format!(
            "its certificate is for {} and not for {}; it needs one with that name as subject alternative name",
            names(presented),
            short(&expected.to_str())
        ),
        Refused::NotValidForName => {
            "its certificate is for another name; it needs one with the right subject alternative name".into()
        }
        Refused::UnknownIssuer => {
            "it shows another certificate than the one that is trusted here, and the trusted one has not signed it; compare \
             the keys, and take over the new certificate if it was changed on purpose"
                .into()
        }
        Refused::ApplicationVerificationFailure => {
            "it shows another key than the one that is trusted here: it has a new key, or it is another machine".into()
        }
        // A new certificate mostly has the name of the old one, which then looks like its authority.
        Refused::BadSignature => {
            "its certificate has the name of the one that is trusted here, and is of another key, or was changed; compare the \
             keys, and take over the new certificate if it was changed on purpose"
                .into()
        }
        Refused::BadEncoding => "its certificate is damaged; install it anew".into(),
        Refused::InvalidPurpose | Refused::InvalidPurposeContext { .. } => {
            "its certificate is not one for servers (extended key usage); it needs one for server authentication"
                .into()
        }
        Refused::Revoked => "its certificate was revoked; it needs a new one".into(),
        Refused::UnhandledCriticalExtension => {
            "its certificate has a critical extension that is unknown here; it needs one without".into()
        }
        #[expect(deprecated, reason = "the library still gives it for some certificates")]
        Refused::UnsupportedSignatureAlgorithm => unsupported(),
        Refused::UnsupportedSignatureAlgorithmContext { .. }
        | Refused::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => unsupported(),
        Refused::Other(other) => match other.0.downcast_ref::<Path>() {
            Some(path) => chain(path),
            // Of our own verifiers, in their own words.
            None => short(&other.to_string()),
        },
        other => format!("its certificate is refused ({})", short(&format!("{other:?}"))),
    }
}

fn unsupported() -> String {
    "its certificate is signed with an algorithm that is not supported here; it needs one that is signed with ECDSA or RSA \
     (SHA-256 or SHA-384)"
        .into()
}

/// What is wrong with a certificate, or with those that signed it, beyond what TLS has words for.
fn chain(error: &Path) -> String {
    match error {
        Path::CaUsedAsEndEntity => {
            "its certificate is an authority's (CA:TRUE), which servers may not use; it needs one that is a server's \
             (with openssl: -addext basicConstraints=critical,CA:FALSE)"
                .into()
        }
        Path::EndEntityUsedAsCa => {
            "its certificate is signed by one that is not an authority's (CA:FALSE); trust the authority, or the \
             certificate itself"
                .into()
        }
        Path::PathLenConstraintViolated | Path::MaximumPathDepthExceeded => {
            "between its certificate and the trusted one are more authorities than are allowed".into()
        }
        Path::NameConstraintViolation => {
            "the authority that signed its certificate may not sign for that name (name constraints)".into()
        }
        Path::UnsupportedCertVersion => {
            "its certificate, or one that signed it, is of an old version; it needs an X.509 certificate of version 3".into()
        }
        Path::UnsupportedCriticalExtension => {
            "its certificate, or one that signed it, has a critical extension that is unknown here; it needs one without"
                .into()
        }
        Path::InvalidSerialNumber
        | Path::MalformedExtensions
        | Path::ExtensionValueInvalid
        | Path::EmptyEkuExtension
        | Path::MalformedDnsIdentifier
        | Path::MalformedNameConstraint => {
            format!("its certificate is not as the standard (RFC 5280) has it ({error:?}); make it anew")
        }
        other => format!("its certificate is refused ({other:?})"),
    }
}

fn handshake(error: &Error) -> String {
    match error {
        Error::InvalidMessage(_) => "what answers there does not speak TLS; check address and port".into(),
        Error::PeerIncompatible(_) | Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "it has no version of TLS (1.2 or 1.3), or no cipher, that is supported here".into()
        }
        Error::AlertReceived(AlertDescription::HandshakeFailure) => {
            "it refuses the TLS handshake: no common cipher, or it asks for a certificate from here".into()
        }
        Error::AlertReceived(alert) => format!("it refuses the TLS handshake ({alert:?})"),
        other => format!("TLS with it fails: {}", short(&other.to_string())),
    }
}

fn at(time: UnixTime) -> String {
    let time = i64::try_from(time.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "an unknown time".into(), |time| time.to_string())
}

/// Names in a certificate, as `DnsName("a")`: what stands between the quotes.
fn names(presented: &[String]) -> String {
    let plain = |name: &String| match (name.find('"'), name.rfind('"')) {
        (Some(from), Some(to)) if from < to => name[from + 1..to].to_owned(),
        _ => name.clone(),
    };
    match presented.iter().map(plain).collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "no name".into(),
        names => short(&names),
    }
}

/// What comes from the other machine: bounded, and without control characters.
fn short(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(NAME_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::crypto::ring;
    use rustls::pki_types::{CertificateDer, ServerName};
    use std::sync::Arc;

    fn params(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
        let mut params = CertificateParams::new([crate::SERVER_NAME.to_owned()]).unwrap();
        change(&mut params);
        params
    }

    fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        params(change).self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    /// What a client says that trusts `trusted` and is shown `shown`.
    fn said(trusted: &CertificateDer<'static>, shown: &CertificateDer<'static>) -> Option<TlsTrouble> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from(crate::SERVER_NAME).unwrap();
        let verdict = verifier.verify_server_cert(shown, &[], &name, &[], UnixTime::now());
        verdict.err().map(|error| TlsTrouble::of(&error))
    }

    #[test]
    fn certificates_that_people_have_are_refused_in_plain_words() {
        let good = self_signed(|_| ());
        assert_eq!(said(&good, &good), None);
        let own = |change: fn(&mut CertificateParams)| {
            let certificate = self_signed(change);
            said(&certificate, &certificate)
        };
        let other_name = |params: &mut CertificateParams| {
            params.distinguished_name.push(rcgen::DnType::CommonName, "another");
        };
        for (verdict, part) in [
            // As `openssl req -x509` makes it.
            (
                own(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
                "is an authority's (CA:TRUE)",
            ),
            (own(|params| params.not_after = date_time_ymd(2020, 1, 1)), "expired at 2020-01-01T00:00:00Z"),
            (
                own(|params| params.not_before = date_time_ymd(3000, 1, 1)),
                "valid from 3000-01-01T00:00:00Z on only",
            ),
            (
                own(|params| *params = CertificateParams::new(["other.example".to_owned()]).unwrap()),
                "is for other.example and not for backup-server",
            ),
            (own(|params| params.subject_alt_names.clear()), "is for no name and not for backup-server"),
            (
                own(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
                "is not one for servers",
            ),
            (said(&good, &self_signed(other_name)), "shows another certificate than the one that is trusted"),
            // A server that was installed anew.
            (said(&good, &self_signed(|_| ())), "is of another key, or was changed"),
            (said(&good, &CertificateDer::from(b"rubbish".to_vec())), "is damaged"),
        ] {
            match verdict {
                Some(TlsTrouble::Certificate(words)) if words.contains(part) => {}
                other => panic!("{part}: {other:?}"),
            }
        }
    }

    #[test]
    fn each_kind_has_words_of_its_own_and_none_of_the_librarys() {
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1));
        let other = |error: Path| CertificateError::Other(rustls::OtherError(Arc::new(error)));
        let kinds = [
            CertificateError::Expired,
            CertificateError::NotValidYet,
            CertificateError::NotValidYetContext { time, not_before: time },
            CertificateError::NotValidForName,
            CertificateError::UnknownIssuer,
            CertificateError::ApplicationVerificationFailure,
            CertificateError::BadSignature,
            CertificateError::BadEncoding,
            CertificateError::InvalidPurpose,
            CertificateError::Revoked,
            CertificateError::UnhandledCriticalExtension,
            CertificateError::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: Vec::new(),
                supported_algorithms: Vec::new(),
            },
            other(Path::CaUsedAsEndEntity),
            other(Path::EndEntityUsedAsCa),
            other(Path::PathLenConstraintViolated),
            other(Path::NameConstraintViolation),
            other(Path::UnsupportedCertVersion),
            other(Path::UnsupportedCriticalExtension),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for kind in kinds {
            let library = format!("{kind:?}");
            let words = TlsTrouble::of(&kind.into()).words().to_owned();
            assert!(words.len() > 30 && !words.contains(&library), "{words}");
            assert!(seen.insert(words), "{library} has the words of another one");
        }
    }

    #[test]
    fn the_cause_is_found_however_deep_it_is() {
        let tls = Error::InvalidCertificate(CertificateError::Expired);
        let io = std::io::Error::new(std::io::ErrorKind::InvalidData, tls);
        let twice = std::io::Error::other(io);
        assert!(matches!(TlsTrouble::find(&twice), Some(TlsTrouble::Certificate(_))));
        assert_eq!(TlsTrouble::find(&std::io::Error::other("x")), None);
        for (error, part) in [
            (Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), "does not speak TLS"),
            (Error::AlertReceived(AlertDescription::ProtocolVersion), "no version of TLS"),
            (Error::AlertReceived(AlertDescription::UnknownCA), "refuses the TLS handshake (UnknownCA)"),
            (Error::General("a\u{1b}b".into()), "ab"),
        ] {
            let words = TlsTrouble::of(&error);
            assert!(matches!(&words, TlsTrouble::Handshake(words) if words.contains(part)), "{words:?}");
        }
        assert_eq!(names(&["DnsName(\"a\")".into(), "x".into()]), "a, x");
    }
}
