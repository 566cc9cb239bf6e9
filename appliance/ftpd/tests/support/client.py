import ftplib, io, socket, ssl, sys, time

HOST, PORT, PASSWORD, ID = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
TAR, MANIFEST = ID + ".tar", ID + ".json"


def context():
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    return tls


class Client(ftplib.FTP_TLS):
    """Resumes the control connection's TLS session for data, which ftplib does not do by itself."""

    resumes = True

    def ntransfercmd(self, cmd, rest=None):
        if cmd.startswith("RETR"):
            self.voidcmd("TYPE I")  # which retrbinary alone does by itself
        data, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
        if self._prot_p:
            session = self.sock.session if self.resumes else None
            data = self.context.wrap_socket(data, server_hostname=self.host, session=session)
        return data, size


def connect(source=None):
    ftp = Client(context=context(), timeout=20)
    ftp.connect(HOST, PORT, source_address=source and (source, 0))
    return ftp


def login(user="backup", password=PASSWORD, source=None):
    ftp = connect(source)
    ftp.login(user, password)
    ftp.prot_p()
    ftp.voidcmd("TYPE I")
    return ftp


def fetch(ftp, name, rest=None):
    data = io.BytesIO()
    ftp.retrbinary("RETR " + name, data.write, rest=rest)
    return data.getvalue()


def refused(code, action, *arguments):
    try:
        reply = action(*arguments)
    except ftplib.Error as error:
        assert str(error).startswith(code), error
        return str(error)
    raise AssertionError(f"{arguments} gave {reply!r}")


def ended(ftp, within):
    """The server closes the control connection; returns after how many seconds."""
    start = time.monotonic()
    ftp.sock.settimeout(within)
    try:
        while ftp.sock.recv(4096):
            pass
    except (ConnectionError, ssl.SSLError) as error:
        assert not isinstance(error, socket.timeout), error
    return time.monotonic() - start
