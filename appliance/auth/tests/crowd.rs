//! A crowd that guesses, and one client that knows the password and was never seen before: with real costs of hashing.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use auth::{Outcome, Verifier, hash_password, write_password_file};

const ADDRESSES: u32 = 1000;
const GUESSES: u32 = 10_000;
/// As many passwords are looked at together as the control API lets in before a login.
const AT_ONCE: u32 = 48;
/// The aim is 2 s, which is 100 hashes; machines that test are busy with other things.
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_client_that_knows_the_password_gets_in_while_a_thousand_addresses_guess() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    write_password_file(&path, &hash_password("right").unwrap(), None).unwrap();
    // A crowd in one network, with the client within, near by and elsewhere; and a crowd from everywhere.
    for (apart, rightful) in
        [(1, "10.0.3.250"), (1, "10.0.200.1"), (1, "2001:db8::1"), (100_003, "192.0.2.1")]
    {
        let verifier = Verifier::new(&path).unwrap();
        let (next, hashed) = (AtomicU32::new(0), AtomicU32::new(0));
        let in_or_refused = AtomicBool::new(false);
        let (waited, outcome) = thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= GUESSES || in_or_refused.load(Ordering::Relaxed) {
                            return;
                        }
                        let from = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n % ADDRESSES * apart));
                        match verifier.verify("backup", &format!("wrong {n}"), from) {
                            Outcome::Accepted => unreachable!("{n}"),
                            Outcome::Rejected => _ = hashed.fetch_add(1, Ordering::Relaxed),
                            Outcome::Throttled { .. } => {}
                        }
                    }
                });
            }
            // The crowd is in full swing: everything that may wait does.
            while hashed.load(Ordering::Relaxed) < 20 {
                thread::sleep(Duration::from_millis(10));
            }
            let start = Instant::now();
            let mut outcome;
            loop {
                outcome = verifier.verify("backup", "right", rightful.parse().unwrap());
                // On a busy machine it may be told to come again.
                if outcome == Outcome::Accepted || start.elapsed() > LIMIT {
                    break;
                }
            }
            in_or_refused.store(true, Ordering::Relaxed);
            (start.elapsed(), outcome)
        });
        println!("{rightful}, crowd {apart} apart: {outcome:?} after {waited:?}");
        assert_eq!(outcome, Outcome::Accepted, "{rightful}");
        assert!(waited < LIMIT, "{rightful}: {waited:?}");
    }
}
