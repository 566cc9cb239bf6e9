//! Password hashes for provisioning data, by OpenSSL from the tools tree: no password stands in a command line.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, anyhow, bail};
use tools::Toolbox;

/// The SHA-512 crypt(5) hash of root's password.
pub fn crypt_hash(toolbox: &Toolbox, password: &str) -> Result<String> {
    if password.is_empty() || password.contains('\n') {
        bail!("a password must be one line with at least one character");
    }
    let mut child = toolbox
        .command("openssl")
        .args(["passwd", "-6", "-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start openssl")?;
    let mut stdin = child.stdin.take().ok_or_else(|| anyhow!("openssl has no standard input"))?;
    writeln!(stdin, "{password}").context("cannot hand openssl the password")?;
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for openssl")?;
    let hash = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || !hash.starts_with("$6$") {
        bail!("openssl made no hash: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(hash)
}
