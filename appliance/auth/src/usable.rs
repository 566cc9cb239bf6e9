//! What PostgreSQL's programs make of a monitor's certificate beyond its key: until when they take it, and whether a login
//! can be bound to it.
//!
//! The control connection pins the key and does not look at dates. `pg_basebackup` and the stream are libpq's, which
//! verifies the chain to the pinned certificates, dates included, and has no setting to leave them out. So the dates are
//! told in time, and what no login can be bound to is refused when it is set up and paired.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What certificates are signed with to which a login can be bound: RFC 5929 takes the digest from the signature's
/// algorithm, so it must have one. These are the ones that both libpq and the control connection's library know.
const BINDABLE: [(&str, &str); 6] = [
    ("1.2.840.113549.1.1.5", "RSA with SHA-1"),
    ("1.2.840.113549.1.1.11", "RSA with SHA-256"),
    ("1.2.840.113549.1.1.12", "RSA with SHA-384"),
    ("1.2.840.113549.1.1.13", "RSA with SHA-512"),
    ("1.2.840.10045.4.3.2", "ECDSA with SHA-256"),
    ("1.2.840.10045.4.3.3", "ECDSA with SHA-384"),
];

/// Names of others that people have.
const UNBINDABLE: [(&str, &str); 4] = [
    ("1.3.101.112", "Ed25519"),
    ("1.3.101.113", "Ed448"),
    ("1.2.840.113549.1.1.10", "RSA-PSS"),
    ("1.2.840.10045.4.3.4", "ECDSA with SHA-512"),
];

/// Why a certificate cannot be used by PostgreSQL's programs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnusableError {
    /// The text is not a certificate.
    #[error("the monitor's certificate cannot be understood: {0}")]
    NotCertificate(String),
    /// PostgreSQL cannot bind a login to it.
    #[error(
        "the monitor's certificate is signed with {0}, to which PostgreSQL cannot bind a login (channel binding); give its \
         PostgreSQL one that is signed with ECDSA or RSA (SHA-256 or SHA-384), and run `monitor-link setup` there again"
    )]
    Unbindable(String),
}

/// How long a monitor's certificate, and its authority's where one signed it, can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The latest beginning.
    pub not_before: SystemTime,
    /// The earliest end.
    pub not_after: SystemTime,
}

/// What PostgreSQL's programs make of the certificates in `pem`, the monitor's first.
///
/// # Errors
/// See [`UnusableError`].
pub fn usable(pem: &str) -> Result<Validity, UnusableError> {
    chain_usable(&chain(pem)?)
}

/// The certificates in `pem`.
///
/// # Errors
/// One of them is damaged.
pub fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, UnusableError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>();
    certificates.map_err(|error| UnusableError::NotCertificate(error.to_string()))
}

/// The same of certificates that were read.
///
/// # Errors
/// See [`UnusableError`].
pub fn chain_usable(certificates: &[CertificateDer<'_>]) -> Result<Validity, UnusableError> {
    let mut validity: Option<Validity> = None;
    for certificate in certificates {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|error| UnusableError::NotCertificate(error.to_string()))?;
        let (begin, end) = (parsed.validity().not_before, parsed.validity().not_after);
        let (begin, end) = (time(begin.timestamp()), time(end.timestamp()));
        let Some(shortest) = &mut validity else {
            bindable(&parsed.signature_algorithm.algorithm.to_id_string())?;
            validity = Some(Validity { not_before: begin, not_after: end });
            continue;
        };
        shortest.not_before = shortest.not_before.max(begin);
        shortest.not_after = shortest.not_after.min(end);
    }
    validity.ok_or_else(|| UnusableError::NotCertificate("there is none".into()))
}

fn bindable(algorithm: &str) -> Result<(), UnusableError> {
    if BINDABLE.iter().any(|(known, _)| *known == algorithm) {
        return Ok(());
    }
    let name = UNBINDABLE.iter().find(|(known, _)| *known == algorithm);
    Err(UnusableError::Unbindable(
        name.map_or_else(|| format!("the algorithm {algorithm}"), |(_, name)| (*name).to_owned()),
    ))
}

/// A time in seconds since 1970, which may be before.
fn time(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let at = match seconds < 0 {
        true => SystemTime::UNIX_EPOCH.checked_sub(distance),
        false => SystemTime::UNIX_EPOCH.checked_add(distance),
    };
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm, years: (i32, i32)) -> String {
        let mut params = CertificateParams::new(["monitor".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        params.self_signed(&KeyPair::generate_for(algorithm).unwrap()).unwrap().pem()
    }

    #[test]
    fn a_login_is_bound_to_what_has_a_digest_only() {
        let years = (2020, 2040);
        let rsa = include_str!("../tests/rsa.crt");
        for pem in
            [&certificate(&PKCS_ECDSA_P256_SHA256, years), &certificate(&PKCS_ECDSA_P384_SHA384, years), rsa]
        {
            usable(pem).unwrap();
        }
        let error = usable(&certificate(&PKCS_ED25519, years)).unwrap_err().to_string();
        assert!(error.contains("signed with Ed25519") && error.contains("ECDSA or RSA"), "{error}");
        assert!(matches!(bindable("1.2.3"), Err(UnusableError::Unbindable(name)) if name.contains("1.2.3")));
        for text in ["", "rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(usable(text), Err(UnusableError::NotCertificate(_))), "{text}");
        }
    }

    #[test]
    fn the_shortest_of_all_dates_counts() {
        let leaf = certificate(&PKCS_ECDSA_P256_SHA256, (2020, 2040));
        let at = |year| time(rcgen::date_time_ymd(year, 1, 1).unix_timestamp());
        assert_eq!(usable(&leaf).unwrap(), Validity { not_before: at(2020), not_after: at(2040) });
        // The authority's own signature binds no login.
        let authority = certificate(&PKCS_ED25519, (2021, 2030));
        assert_eq!(
            usable(&format!("{leaf}{authority}")).unwrap(),
            Validity { not_before: at(2021), not_after: at(2030) }
        );
        assert!(time(-5) < SystemTime::UNIX_EPOCH && time(i64::MAX) >= SystemTime::UNIX_EPOCH);
    }
}
