//! What to type next while logging in: a pure decision from what the console shows.
//!
//! Under TCG anything may take seconds, and getty and login throw away what is typed before they ask. So nothing
//! is typed ahead of its prompt; silence is answered by a newline, upon which a getty repeats its prompt, and what
//! looks like a shell by a probe. Never by anything else: firmware and GRUB read this console too, and take letters
//! for commands.

use std::time::Duration;

/// Silence after which something is typed to see who is there.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);
/// The same after a name or a password, which something will answer: login may have to be loaded first, and the
/// password to be hashed.
const PATIENCE: Duration = Duration::from_secs(15);
/// A prompt counts after so much silence: something typed earlier may be answering it already, and an answer to a
/// prompt that has passed would be taken for the next one's.
pub(crate) const SETTLED: Duration = Duration::from_millis(500);
/// After so many refusals the password is wrong; the first may be a left-over of somebody else's typing.
const REFUSALS: u32 = 2;

/// What can be typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// An empty line.
    Newline,
    /// The user's name.
    User,
    /// The password.
    Password,
    /// A command whose answer only a shell can give.
    Probe,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Read on.
    Wait,
    /// Type.
    Send(Keys),
    /// A shell answered.
    LoggedIn,
    /// The password is wrong.
    Refused,
}

/// State of a login.
#[derive(Debug, Default)]
pub(crate) struct Login {
    last_sent: Option<Keys>,
    password_sent: bool,
    /// A password was sent and neither taken nor refused yet.
    password_pending: bool,
    refusals: u32,
}

impl Login {
    /// Decides from what the console showed since the last keys, how long it has been silent, and the answer that
    /// the probe will get. Remembers what it said to type.
    pub(crate) fn next(&mut self, shown: &str, silent_for: Duration, probe_answer: &str) -> Step {
        let step = self.decide(shown, silent_for, probe_answer);
        if let Step::Send(keys) = step {
            self.last_sent = Some(keys);
            if keys == Keys::Password {
                self.password_sent = true;
                self.password_pending = true;
            }
        }
        step
    }

    fn decide(&mut self, shown: &str, silent_for: Duration, probe_answer: &str) -> Step {
        if shown.contains(probe_answer) {
            return Step::LoggedIn;
        }
        if silent_for < SETTLED {
            return Step::Wait;
        }
        let end = shown.trim_end();
        // "Last login: Mon …" is a greeting that may arrive in pieces.
        if end.ends_with("login:") && !end.ends_with("Last login:") {
            if self.password_pending {
                self.password_pending = false;
                self.refusals += 1;
                if self.refusals >= REFUSALS {
                    return Step::Refused;
                }
            }
            return Step::Send(Keys::User);
        }
        if end.ends_with("Password:") {
            // Asked for another name's password: answer nothing, and be asked for the name again.
            let ours = self.last_sent == Some(Keys::User);
            return Step::Send(if ours { Keys::Password } else { Keys::Newline });
        }
        let unanswered = end.is_empty() && matches!(self.last_sent, Some(Keys::User | Keys::Password));
        if silent_for < if unanswered { PATIENCE } else { SILENCE } {
            return Step::Wait;
        }
        let prompt = end.ends_with(['#', '$']);
        let greeted = self.password_sent && self.last_sent != Some(Keys::User);
        Step::Send(if prompt || greeted { Keys::Probe } else { Keys::Newline })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;
    const LATER: Duration = SILENCE;

    /// Feeds screens and returns the steps.
    fn steps(screens: &[(&str, Duration)]) -> Vec<Step> {
        let mut login = Login::default();
        screens.iter().map(|(shown, silent)| login.next(shown, *silent, "probe-77")).collect()
    }

    use Keys::{Newline, Password, Probe, User};
    use Step::{LoggedIn, Refused, Send, Wait};

    #[test]
    fn a_getty_that_waits_repeats_its_prompt_after_a_newline() {
        let seen = steps(&[
            ("", NOW),
            ("", LATER),
            ("\r\nbackup1 login: ", SETTLED),
            ("root\r\nPassword: ", SETTLED),
            ("\r\n", LATER),
            ("\r\nLinux backup1\r\nLast login:", NOW),
            ("\r\nLinux backup1\r\nLast login: Mon\r\nroot@backup1:~# ", LATER),
            ("echo probe-\"\"77\r\nprobe-77\r\n", NOW),
        ]);
        let expected = [Wait, Send(Newline), Send(User), Send(Password), Wait, Wait, Send(Probe), LoggedIn];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_prompt_that_may_be_answered_already_is_not_answered() {
        let seen = steps(&[("backup1 login: ", NOW), ("backup1 login: Password: ", SETTLED)]);
        assert_eq!(seen, [Wait, Send(Newline)]);
    }

    #[test]
    fn a_wrong_password_is_told_from_left_over_typing() {
        let again = "\r\nLogin incorrect\r\nbackup1 login: ";
        let seen = steps(&[
            ("backup1 login: ", SETTLED),
            ("Password: ", SETTLED),
            (again, SETTLED),
            ("Password: ", SETTLED),
            (again, SETTLED),
        ]);
        assert_eq!(seen, [Send(User), Send(Password), Send(User), Send(Password), Refused]);
    }

    #[test]
    fn a_slow_refusal_counts_although_the_shell_was_probed_meanwhile() {
        let seen = steps(&[
            ("backup1 login: ", SETTLED),
            ("Password: ", SETTLED),
            ("\r\n", PATIENCE),
            ("Login incorrect\r\nbackup1 login: ", SETTLED),
            ("Password: ", SETTLED),
            ("\r\n", PATIENCE),
            ("Login incorrect\r\nbackup1 login: ", SETTLED),
        ]);
        let expected =
            [Send(User), Send(Password), Send(Probe), Send(User), Send(Password), Send(Probe), Refused];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_password_prompt_for_somebody_else_gets_an_empty_line() {
        let seen = steps(&[("Password: ", SETTLED), ("\r\nLogin incorrect\r\nbackup1 login: ", SETTLED)]);
        assert_eq!(seen, [Send(Newline), Send(User)]);
    }

    #[test]
    fn a_shell_that_is_there_already_is_found_by_the_probe() {
        let seen = steps(&[("", LATER), ("\r\nroot@backup1:~# ", LATER), ("probe-77\n", NOW)]);
        assert_eq!(seen, [Send(Newline), Send(Probe), LoggedIn]);
    }

    #[test]
    fn a_boot_menu_gets_no_letters() {
        let menu = "The highlighted entry will be executed automatically in 1s.";
        let seen = steps(&[(menu, LATER), ("", LATER), ("", LATER), ("", LATER), ("", LATER)]);
        assert_eq!(seen, [Send(Newline); 5]);
    }

    #[test]
    fn an_echoed_probe_is_no_answer() {
        let seen = steps(&[("echo probe-\"\"77\r\n", NOW)]);
        assert_eq!(seen, [Wait]);
    }
}
