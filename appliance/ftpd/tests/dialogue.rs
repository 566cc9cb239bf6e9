//! What the server says to each command, word for word as clients send it: the reply of the RFC, and the session goes on.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

mod support;

use api::FtpSettings;
use std::fs;
use support::{ID, set, start};

/// Sends lines as they are, and reads replies.
const RAW: &str = "
class Raw:
    def __init__(self, ftp):
        self.ftp, self.file = ftp, ftp.sock.makefile('rb')
    def reply(self):
        lines = [self.file.readline().decode()]
        assert lines[0], 'the session has ended'
        while not (lines[-1][:3] == lines[0][:3] and lines[-1][3:4] == ' '):
            lines.append(self.file.readline().decode())
            assert lines[-1], lines
        return ''.join(lines)
    def send(self, line, expected):
        self.ftp.sock.sendall(line if isinstance(line, bytes) else line.encode() + b'\\r\\n')
        said = self.reply()
        assert said.startswith(expected), (line, said)
        return said
    def port(self):
        return int(self.send('EPSV', '229').split('|')[3])
    def connect(self, port):
        return socket.create_connection((HOST, port), timeout=20)
    def secure(self, data):
        return self.ftp.context.wrap_socket(data, server_hostname=HOST, session=self.ftp.sock.session)
    def data(self, command, end='226'):
        data = self.connect(self.port())
        self.send(command, '150')
        data, got = self.secure(data), b''
        while piece := data.recv(65536):
            got += piece
        data.close()
        said = self.reply()
        assert said.startswith(end), (command, said)
        return got
    def refused(self, command, expected):
        '''No 150, and nothing on the data connection.'''
        data = self.connect(self.port())
        self.send(command, expected)
        data.close()
raw = Raw(login())
";

#[test]
fn no_reply_ends_the_session() {
    let server = start(|_| {});
    server.python(&format!(
        "{RAW}
for line, expected in [
    ('NOOP x', '200'), ('noop', '200'), ('  NOOP', '200'), ('REST -1', '501'), ('REST 99999999999999999999', '501'),
    ('MODE Z', '504'), ('MODE S', '200'), ('STRU F', '200'), ('STRU R', '504'), ('TYPE A', '200'), ('TYPE A N', '200'),
    ('TYPE E', '504'), ('TYPE L 8', '200'), ('TYPE', '501'), ('PROT P ', '200'), ('PBSZ', '501'), ('PBSZ 0', '200'),
    ('OPTS UTF8 on', '200'), ('OPTS MLST type;size;modify;unique;', '200 MLST OPTS Type;Size;Modify;'), ('OPTS x', '501'),
    ('SYST', '215'), ('HELP', '214'), ('HELP SITE', '214'), ('SITE HELP', '214'), ('SITE CHMOD 600 x', '502'),
    ('PWD', '257 \"/\" '), ('XPWD', '257 \"/\" '), ('CDUP', '250'), ('XCUP', '250'), ('CWD /', '250'), ('CWD ~', '250'),
    ('XCWD ./', '250'), ('CWD x', '550'), ('CWD', '501'), ('ALLO 5', '202'), ('CLNT test 1.0', '200'), ('HOST x', '502'),
    ('LANG en', '502'), ('AUTH SSL', '503'), ('USER x', '503'), ('REIN', '502'), ('FOO', '500'), ('', '500'),
    ('SIZE /', '550'), ('SIZE', '501'), ('MDTM x', '550'), ('MDTM 20200101000000 ' + TAR, '550'), ('STAT', '211'),
    ('STAT x', '550'), ('STAT *.x', '550 No files found'), ('MLST x', '550'), ('ABOR', '226'), ('EPSV 2', '522'),
    ('EPSV x', '501'), ('EPSV 1', '229'), ('RNFR ' + TAR, '550'), ('RNTO x', '503'), ('DELE ' + TAR, '550'),
    ('TYPE A', '200'), ('RETR ' + TAR, '504'), ('TYPE I', '200'), ('RETR', '501'), ('RETR /', '550'), ('SIZE ' + 'x' * 255, '550'),
    ('SIZE ' + 'x' * 3000, '550'), ('RETR ' + 'x' * 5000, '500'), ('RETR a\\x07b', '550'),
    (b'\\xff\\xf4\\xf2NOOP\\r\\n', '200'), (b'RETR \\xff\\xfe\\r\\n', '550'), (b'NOOP\\n', '200'), (b'SIZE a\\rb\\r\\n', '550'),
    (b'\\xffX\\r\\n', '500'),
]:
    raw.send(line, expected)
    raw.send('NOOP', '200')
# A file with blanks around its name, in small letters.
assert int(raw.send('size   ' + TAR + '  ', '213')[4:]) > 3_000_000
features = raw.send('FEAT', '211-')
assert ' MLST Type*;Size*;Modify*;\\r\\n' in features, features
said = raw.send('MLST ' + TAR, '250-').splitlines()
assert said[1].startswith(' type=file;size=') and said[1].endswith('; /' + TAR), said
said = raw.send('STAT', '211-')
for path in ['.', '-la', '*.tar', TAR]:
    said = raw.send('STAT ' + path, '213-').splitlines()
    assert said[0] == '213-Status' and said[-1] == '213 End', said
    assert said[-2].startswith(' -r--r--r--') and said[-2].endswith(TAR), said
assert raw.data('RETR ' + MANIFEST).startswith(b'{{')
raw.send('EPSV ALL', '200')
raw.send('PASV', '503')
assert raw.data('RETR ' + MANIFEST).startswith(b'{{')
raw.send('QUIT', '221')"
    ));
}

#[test]
fn patterns_are_listed_and_options_of_ls_left_out() {
    let server = start(|_| {});
    let other = server.backups().join(support::MONITOR).join("20261124T000000Z");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("file"), "content").unwrap();
    support::complete(&server.backups(), "20261124T000000Z");
    server.python(&format!(
        "{RAW}
LATER = '20261124T000000Z'
all = [MANIFEST, TAR, LATER + '.json', LATER + '.tar']
for argument, expected in [
    ('', all), ('/', all), ('.', all), ('~', all), ('-a', all), ('-la', all), ('-l -a /', all), ('-- .', all), ('*', all),
    ('*.tar', [TAR, LATER + '.tar']), ('/*.json', [MANIFEST, LATER + '.json']), ('./2026112?T0*', all[2:]),
    ('-1 *[4]T*.tar', [LATER + '.tar']), (TAR, [TAR]), ('-l ' + TAR, [TAR]),
]:
    names = raw.data('NLST ' + argument).decode().splitlines()
    assert names == expected, (argument, names)
    lines = raw.data('LIST ' + argument).decode().splitlines()
    assert [line.split()[-1] for line in lines] == expected, (argument, lines)
assert len(raw.data('MLSD').splitlines()) == 4
raw.refused('MLSD ' + TAR, '501')
for argument in ['*.zip', 'x', '-la x', '../*', '/x/*', '[', '***', '/etc']:
    for command in ['NLST', 'LIST']:
        raw.refused(command + ' ' + argument, '550')
# Whatever was refused, the next transfer needs nothing but a port.
raw.send('TYPE I', '200')
raw.refused('RETR x.tar', '550')
raw.refused('RETR *.json', '550')
raw.send('REST 999999999', '350')
raw.refused('RETR ' + TAR, '550 The file ends')
raw.refused('STOR x', '550')
assert raw.data('RETR ' + MANIFEST).startswith(b'{{')"
    ));
}

/// RFC 959 begins with ASCII, in which clients change line ends in what they get.
#[test]
fn a_tar_is_never_sent_as_text() {
    let server = start(|_| {});
    server.python(&format!(
        "{RAW}
ftp = connect()
ftp.login('backup', PASSWORD)
ftp.prot_p()
raw = Raw(ftp)
raw.refused('RETR ' + TAR, '504')
raw.send('TYPE I', '200')
assert len(raw.data('RETR ' + TAR)) > 3_000_000
raw.send('TYPE A', '200')
raw.refused('RETR ' + TAR, '504')
lines = []
login().retrlines('RETR ' + MANIFEST, lines.append)
assert lines[0].startswith('{{'), lines"
    ));
}

#[test]
fn abor_ends_a_transfer_and_nothing_else() {
    let server = start(|_| {});
    fs::File::create(server.snapshot().join("sparse")).unwrap().set_len(256 << 20).unwrap();
    support::complete(&server.backups(), ID);
    server.python(&format!(
        "{RAW}
for line in [b'ABOR\\r\\n', b'\\xff\\xf4\\xff\\xf2abor\\r\\n']:
    for begin in [0, 4096]:
        raw.send(f'REST {{begin}}', '350')
        data = raw.connect(raw.port())
        raw.send('RETR ' + TAR, '150')
        data = raw.secure(data)
        data.recv(1000)
        # The control connection is alive, and what is asked has its turn after the transfer.
        raw.send('NOOP', '200')
        raw.ftp.sock.sendall(b'PWD\\r\\n' + line)
        start = time.monotonic()
        assert raw.reply().startswith('426')
        assert raw.reply().startswith('257')
        assert raw.reply().startswith('226')
        assert time.monotonic() - start < 3
        data.close()
        assert raw.data('RETR ' + MANIFEST).startswith(b'{{')
# Before the data connection has come.
raw.port()
raw.send('RETR ' + TAR, '150')
raw.ftp.sock.sendall(b'ABOR\\r\\n')
assert raw.reply().startswith('426') and raw.reply().startswith('226')
raw.port()
raw.send('ABOR', '226')
assert raw.data('RETR ' + MANIFEST).startswith(b'{{')"
    ));
}

/// A listing that the client does not take, and one that it stops.
#[test]
fn a_listing_that_does_not_arrive_is_said_and_the_session_goes_on() {
    let server = start(|_| {});
    server.python(&format!(
        "{RAW}
for stop in [b'', b'ABOR\\r\\n']:
    data = raw.connect(raw.port())
    raw.send('LIST', '150')
    raw.ftp.sock.sendall(stop)
    if not stop:
        data = raw.secure(data)
        while data.recv(1000):
            pass
        assert raw.reply().startswith('226')
    else:
        assert raw.reply()[:3] == '426'
        assert raw.reply().startswith('226')
    data.close()
assert raw.data('NLST').decode().split() == [MANIFEST, TAR]"
    ));
}

/// What the clients that are not here send, in their order: recorded from them against this server.
#[test]
fn recorded_sessions_of_other_clients_go_through() {
    let server = start(|_| {});
    server.python(&format!(
        "{RAW}
# basic-ftp 6.2
for line, expected in [
    ('FEAT', '211-'), ('TYPE I', '200'), ('STRU F', '200'), ('OPTS UTF8 ON', '200'),
    ('OPTS MLST type;size;modify;unique;unix.mode;unix.owner;unix.group;unix.ownername;unix.groupname;', '200'),
    ('PBSZ 0', '200'), ('PROT P', '200'), ('PWD', '257 \"/\"'), ('SIZE ' + TAR, '213'), ('MDTM ' + TAR, '213'),
]:
    raw.send(line, expected)
assert TAR in raw.data('MLSD').decode()
assert TAR in raw.data('LIST -a').decode()
whole = raw.data('RETR ' + TAR)
raw.send('REST 1000000', '350')
assert raw.data('RETR ' + TAR) == whole[1000000:]
raw.send('QUIT', '221')
# Apache Commons Net, with TLS
raw = Raw(login())
for line, expected in [('PBSZ 0', '200'), ('PROT P', '200'), ('TYPE I', '200'), ('SYST', '215'), ('MLST ' + TAR, '250'), ('STRU F', '200'), ('MODE S', '200'), ('ALLO 100', '202'), ('HELP', '214')]:
    raw.send(line, expected)
assert TAR in raw.data('LIST').decode()
assert TAR in raw.data('NLST *.tar').decode()
raw.send('NOOP', '200')"
    ));
    let server = start(|config| set(config, FtpSettings { allow_clear: true, ..FtpSettings::default() }));
    server.python(&format!(
        "{RAW}
ftp = ftplib.FTP(timeout=20)
ftp.connect(HOST, PORT)
ftp.login('backup', PASSWORD)
raw = Raw(ftp)
raw.secure = lambda data: data
# tnftp and ncftp
for line, expected in [('SYST', '215'), ('FEAT', '211-'), ('HELP SITE', '214'), ('CLNT NcFTP 3.2.6 linux', '200'), ('OPTS UTF8 ON', '200'), ('OPTS MLST type;size;modify;UNIX.mode;', '200'), ('PWD', '257'), ('XPWD', '257'), ('MODE S', '200'), ('CWD /', '250'), ('REST 1', '350'), ('REST 0', '350'), ('TYPE A', '200')]:
    raw.send(line, expected)
names = raw.data('NLST *.json').decode().split()
assert names == [MANIFEST], names
raw.send('TYPE I', '200')
raw.send('SIZE ' + TAR, '213')
raw.send('MDTM ' + TAR, '213')
assert len(raw.data('RETR ' + TAR)) > 3_000_000
raw.send('QUIT', '221')"
    ));
}
