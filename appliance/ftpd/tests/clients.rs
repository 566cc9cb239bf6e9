//! What real clients see: curl and Python's ftplib.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

mod support;

use api::FtpSettings;
use std::fs;
use support::{ID, MANIFEST, set, start, start_on, stderr};

#[test]
fn curl_fetches_tar_and_manifest_as_they_are() {
    let server = start(|_| {});
    for (name, expected) in [(format!("{ID}.tar"), server.tar()), (format!("{ID}.json"), MANIFEST.into())] {
        let output = server.curl(&[&server.url(&name)]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(output.stdout == expected, "{} bytes of {name}", output.stdout.len());
    }
}

#[test]
fn curl_fetches_over_ipv6() {
    let server = start_on("[::1]:0", |_| {});
    let output = server.curl(&[&server.url(&format!("{ID}.tar"))]);
    assert!(output.stdout == server.tar(), "{}", stderr(&output));
}

#[test]
fn pasv_serves_as_well_as_epsv() {
    let server = start(|_| {});
    let output = server.curl(&["--disable-epsv", &server.url(&format!("{ID}.tar"))]);
    assert!(stderr(&output).contains("227 Entering Passive Mode (127,0,0,1,"), "{}", stderr(&output));
    assert!(output.stdout == server.tar());
}

#[test]
fn both_tls_versions_serve() {
    let server = start(|_| {});
    for version in ["--tlsv1.3", "--tlsv1.2"] {
        let output = server.curl(&[version, "--tls-max", &version[6..], &server.url(&format!("{ID}.tar"))]);
        assert!(output.stdout == server.tar(), "{version}: {}", stderr(&output));
    }
}

#[test]
fn a_broken_download_is_resumed_where_it_broke() {
    let server = start(|_| {});
    let (tar, file) = (server.tar(), server.path("download"));
    for got in [1, 511, 512, 300_000, tar.len() - 1] {
        fs::write(&file, &tar[..got]).unwrap();
        let output = server.curl(&[
            "--continue-at",
            "-",
            "--output",
            file.to_str().unwrap(),
            &server.url(&format!("{ID}.tar")),
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(fs::read(&file).unwrap() == tar, "resumed at {got}");
    }
}

#[test]
fn downloads_broken_anywhere_come_to_their_end() {
    let server = start(|_| {});
    server.python(
        "import random
whole, random = fetch(login(), TAR), random.Random(7)
for _ in range(4):
    got = b''
    while len(got) < len(whole):
        ftp = login()
        data = ftp.transfercmd('RETR ' + TAR, len(got))
        left = random.randrange(1, len(whole))
        while left > 0 and (piece := data.recv(min(left, 65536))):
            got, left = got + piece, left - len(piece)
        data.close()
    assert got == whole",
    );
}

#[test]
fn lftp_lists_fetches_resumes_and_mirrors() {
    let server = start(|_| {});
    let (tar, folder) = (server.tar(), server.path("lftp"));
    let toolbox = tools::Toolbox::open().unwrap();
    let lftp = |commands: &str| {
        let script = format!(
            "set ssl:verify-certificate no; set ftp:ssl-force yes; set ftp:ssl-protect-data yes; set net:max-retries 2; \
             set cmd:fail-exit yes; open -u backup,'{}' ftp://{}; lcd {}; {commands}; bye",
            support::PASSWORD,
            server.address,
            folder.display()
        );
        let output =
            toolbox.command("lftp").env("HOME", &folder).args(["--norc", "-c", &script]).output().unwrap();
        assert!(output.status.success(), "{commands}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    fs::create_dir(&folder).unwrap();
    let listed = lftp("cls -1");
    assert_eq!(listed.lines().collect::<Vec<_>>(), [format!("{ID}.json"), format!("{ID}.tar")]);
    let file = folder.join(format!("{ID}.tar"));
    fs::write(&file, &tar[..1_000_000]).unwrap();
    lftp(&format!("get -c {ID}.tar"));
    assert!(fs::read(&file).unwrap() == tar, "get -c");
    fs::remove_file(&file).unwrap();
    // Several connections at once, each with its part.
    lftp(&format!("pget -n 3 {ID}.tar"));
    assert!(fs::read(&file).unwrap() == tar, "pget");
    lftp("mirror . copy");
    assert!(fs::read(folder.join("copy").join(format!("{ID}.tar"))).unwrap() == tar, "mirror");
}

/// What FileZilla 3 sends, in its order. It resumes the control connection's TLS session for data.
#[test]
fn filezillas_commands_list_fetch_and_resume() {
    let server = start(|_| {});
    let script = "
def filezilla(version):
    tls = context()
    tls.minimum_version = tls.maximum_version = version
    raw = socket.create_connection((HOST, PORT), timeout=20)
    control = {'file': raw.makefile('rwb', buffering=0)}
    def reply():
        line = control['file'].readline().decode()
        while line[3:4] == '-':
            following = control['file'].readline().decode()
            line += following
            if following[:4] == line[:3] + ' ':
                break
        return line
    def send(command, *codes):
        control['file'].write(command.encode() + b'\\r\\n')
        answer = reply()
        assert answer[:3] in codes, (command, answer)
        return answer
    assert reply().startswith('220')
    send('AUTH TLS', '234')
    session = tls.wrap_socket(raw, server_hostname=HOST)
    control['file'] = session.makefile('rwb', buffering=0)
    send('USER backup', '331')
    send('PASS ' + PASSWORD, '230')
    send('SYST', '215')
    features = send('FEAT', '211')
    for feature in ['UTF8', 'SIZE', 'MDTM', 'MLST', 'REST STREAM', 'EPSV', 'PBSZ', 'PROT']:
        assert feature in features, (feature, features)
    send('CLNT FileZilla', '200', '500', '502')
    send('OPTS UTF8 ON', '200')
    send('PBSZ 0', '200')
    send('PROT P', '200')
    def data(command):
        numbers = send('PASV', '227').split('(')[1].split(')')[0].split(',')
        channel = socket.create_connection(('.'.join(numbers[:4]), int(numbers[4]) * 256 + int(numbers[5])), timeout=20)
        for part in command[:-1]:
            send(part, '350')
        control['file'].write(command[-1].encode() + b'\\r\\n')
        channel = tls.wrap_socket(channel, server_hostname=HOST, session=session.session)
        answer, got = reply(), b''
        assert answer[:3] in ('150', '125'), answer
        while piece := channel.recv(65536):
            got += piece
        resumed = channel.session_reused
        channel.close()
        assert reply().startswith('226')
        return got, resumed
    send('CWD /', '250')
    assert '\"/\"' in send('PWD', '257')
    send('TYPE I', '200')
    listing, resumed = data(['MLSD'])
    assert TAR in listing.decode() and 'type=file' in listing.decode(), listing
    whole, _ = data(['RETR ' + TAR])
    assert int(send('SIZE ' + TAR, '213')[4:]) == len(whole)
    rest, _ = data(['REST 1000000', 'RETR ' + TAR])
    assert whole[1000000:] == rest and len(whole) > 3000000
    send('NOOP', '200')
    send('QUIT', '221')
    return resumed
for version in [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]:
    print(version.name, filezilla(version))
";
    let said = server.python(script);
    assert!(said.contains("TLSv1_2 True"), "the session is not resumed: {said}");
}

#[test]
fn a_pinned_key_is_accepted_and_another_is_not() {
    let server = start(|_| {});
    let certificate = server.path("certificate.pem");
    let script = "openssl x509 -in \"$1\" -pubkey -noout | openssl pkey -pubin -outform der | \
        openssl dgst -sha256 -binary | base64";
    let pin = std::process::Command::new("sh").args(["-c", script, "sh"]).arg(certificate).output().unwrap();
    let pin = String::from_utf8(pin.stdout).unwrap();
    let url = server.url(&format!("{ID}.json"));
    let right = server.curl(&["--pinnedpubkey", &format!("sha256//{}", pin.trim()), &url]);
    assert_eq!(String::from_utf8_lossy(&right.stdout), MANIFEST, "{}", stderr(&right));
    let wrong =
        server.curl(&["--pinnedpubkey", "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", &url]);
    assert_eq!(wrong.status.code(), Some(90), "{}", stderr(&wrong)); // CURLE_SSL_PINNEDPUBKEYNOTMATCH
}

#[test]
fn a_wrong_password_and_an_unknown_user_get_the_same_530() {
    let server = start(|_| {});
    let url = server.url(&format!("{ID}.tar"));
    for user in ["backup:wrong", "root:correct horse", "anonymous:x"] {
        let output = server.curl(&["--user", user, &url]);
        assert_eq!(output.status.code(), Some(67), "{}", stderr(&output)); // CURLE_LOGIN_DENIED
        assert!(stderr(&output).contains("< 530 Authentication failed"), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    assert!(server.curl(&[&url]).status.success());
}

#[test]
fn a_clear_login_is_refused_and_the_greeting_says_how() {
    let server = start(|_| {});
    let output = server.plain_curl(&[&server.url(&format!("{ID}.tar"))]);
    let talk = stderr(&output);
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(talk.contains("< 534 "), "{talk}");
    assert!(talk.contains("AUTH TLS before USER, PROT P before transfers"), "{talk}");
    assert!(!talk.contains("PASS"), "the password was sent: {talk}");
}

#[test]
fn clear_ftp_serves_where_it_is_allowed() {
    let server = start(|config| set(config, FtpSettings { allow_clear: true, ..FtpSettings::default() }));
    let output = server.plain_curl(&[&server.url(&format!("{ID}.tar"))]);
    assert!(output.stdout == server.tar(), "{}", stderr(&output));
    assert!(server.curl(&[&server.url(&format!("{ID}.tar"))]).stdout == server.tar());
}

#[test]
fn listings_show_complete_backups_only() {
    let server = start(|_| {});
    fs::create_dir_all(server.backups().join(support::MONITOR).join("20261124T000000Z")).unwrap();
    let talk = server.python(
        "ftp = login()
assert sorted(ftp.nlst()) == [MANIFEST, TAR], ftp.nlst()
facts = dict(ftp.mlsd())
assert sorted(facts) == [MANIFEST, TAR], facts
assert facts[TAR]['type'] == 'file' and int(facts[TAR]['size']) == ftp.size(TAR)
assert facts[TAR]['modify'] == ftp.sendcmd('MDTM ' + TAR).split()[1]
lines = []
ftp.dir(lines.append)
assert [line[:10] for line in lines] == ['-r--r--r--'] * 2, lines
lines = []
ftp.dir(TAR, lines.append)
assert len(lines) == 1, lines
assert 'type=file' in ftp.sendcmd('MLST ' + TAR)
assert 'type=dir' in ftp.sendcmd('MLST /')
assert 'REST STREAM' in ftp.sendcmd('FEAT')
print(ftp.size(TAR))
ftp.quit()",
    );
    assert_eq!(talk.trim().parse::<usize>().unwrap(), server.tar().len());
}

#[test]
fn ftplib_fetches_from_any_offset_in_one_session() {
    let server = start(|_| {});
    fs::write(server.path("expected"), server.tar()).unwrap();
    server.python(&format!(
        "tar = open({:?}, 'rb').read()
ftp = login()
for offset in [None, 0, 1, 512, 1048575, len(tar) - 1, len(tar), None]:
    got = fetch(ftp, TAR, offset)
    assert got == tar[offset or 0:], (offset, len(got))
ftp.quit()",
        server.path("expected")
    ));
}

#[test]
fn nothing_can_be_changed() {
    let server = start(|_| {});
    server.python(
        "ftp = login()
refused('550', ftp.delete, TAR)
refused('550', ftp.mkd, 'folder')
refused('550', ftp.rmd, '/')
refused('550', ftp.rename, TAR, 'other.tar')
for command in ['STOR new.tar', 'STOR ' + TAR, 'APPE ' + TAR]:
    refused('550', ftp.transfercmd, command)
refused('5', ftp.sendcmd, 'SITE MD5 ' + TAR)
refused('5', ftp.sendcmd, 'PORT 127,0,0,1,200,200')
assert sorted(ftp.nlst()) == [MANIFEST, TAR]
ftp.quit()",
    );
    assert!(server.snapshot().join("pgdata/PG_VERSION").exists());
}

#[test]
fn paths_lead_nowhere_else() {
    let server = start(|_| {});
    fs::write(server.backups().join("secret.json"), "secret").unwrap();
    server.python(
        "ftp = login()
for name in ['/etc/passwd', '../../../../etc/passwd', '/../secret.json', 'secret.json', '..', TAR + '/..',
             './../' + TAR, ID, ID + '.index', '%2e%2e/secret.json', '~', '~root', TAR + '/pgdata/PG_VERSION']:
    refused('550', fetch, ftp, name)
    refused('550', ftp.size, name)
    refused('550', ftp.sendcmd, 'MDTM ' + name)
    refused('550', ftp.sendcmd, 'MLST ' + name)
for name in ['..', '/..', '/etc', ID, TAR]:
    refused('550', ftp.sendcmd, 'CWD ' + name)
ftp.cwd('/')
ftp.cwd('.')
assert sorted(ftp.nlst()) == [MANIFEST, TAR]
ftp.quit()",
    );
}
