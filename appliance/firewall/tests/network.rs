//! The rules in a kernel, seen from another network: what answers is open, and nothing else answers. Needs root.

#![allow(clippy::unwrap_used, clippy::panic)] // a helper that fails is a test that fails

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::process::{Child, Stdio};

use nftables::schema::Nftables;
use nix::sched::{CloneFlags, unshare};
use provisioning::Role;
use tools::Toolbox;

/// The network of the machine, which is this test's process, and one beside it, from which is looked.
struct Networks {
    toolbox: Toolbox,
    outside: Child,
}

impl Drop for Networks {
    fn drop(&mut self) {
        self.outside.kill().ok();
        self.outside.wait().ok();
    }
}

/// Ports that are looked at: those of every role, their neighbours, and what often listens.
const SCAN: &str = "
import errno, ipaddress, select, socket, sys, time
PORTS = sorted({1, 21, 22, 53, 80, 111, 443, 444, 442, 2120, 2121, 2122, 5355, 5432, 5433, 8080, 9090, 65535}
               | set(range(29990, 30020)) | set(range(49990, 50010)))
def answering(family, address, kind):
    waiting, found = {}, []
    for port in PORTS:
        one = socket.socket(family, kind)
        one.setblocking(False)
        try:
            one.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                one.send(b'x')
        except BlockingIOError:
            pass
        waiting[one] = port
    end = time.monotonic() + 0.5
    while waiting and time.monotonic() < end:
        if kind == socket.SOCK_STREAM:
            _, ready, _ = select.select([], list(waiting), [], 0.2)
        else:
            ready, _, _ = select.select(list(waiting), [], [], 0.2)
        for one in ready:
            error = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error in (0, errno.ECONNREFUSED):
                found.append(waiting.pop(one))
            else:
                waiting.pop(one)
    return sorted(found)
def connections(address, port):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    held = []
    try:
        while len(held) < 200:
            one = socket.socket(family)
            one.settimeout(1)
            one.connect((address, port))
            held.append(one)
    except TimeoutError:
        pass
    return len(held)
print('ready', flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
";

impl Networks {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let toolbox = Toolbox::open().unwrap();
        let mut command = toolbox.command("unshare");
        command.args(["--net", "--", "python3", "-c", SCAN]);
        let outside = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut networks = Self { toolbox, outside };
        assert_eq!(networks.line(), "ready");
        let process = networks.outside.id();
        for words in [
            "link set lo up".into(),
            format!("link add machine type veth peer name outside netns {process}"),
            "address add 192.0.2.1/24 dev machine".into(),
            "address add 2001:db8::1/64 dev machine nodad".into(),
            "link set machine up".into(),
        ] {
            networks.run("ip", &words);
        }
        for words in [
            "address add 192.0.2.2/24 dev outside",
            "address add 2001:db8::2/64 dev outside nodad",
            "link set outside up",
        ] {
            let entered = format!("--target {process} --net -- ip {words}");
            networks.run("nsenter", &entered);
        }
        // Or the kernel says only of some closed ports that they are.
        for name in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
            std::fs::write(format!("/proc/self/net/../sys/net/{name}"), "0")
                .or_else(|_| std::fs::write(format!("/proc/sys/net/{name}"), "0"))
                .unwrap();
        }
        networks
    }

    fn run(&self, program: &str, words: &str) {
        let ended = self.toolbox.command(program).args(words.split_whitespace()).status().unwrap();
        assert!(ended.success(), "{program} {words}");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.outside.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Asks whoever looks from outside.
    fn ask(&mut self, question: &str) -> String {
        writeln!(self.outside.stdin.as_mut().unwrap(), "{question}").unwrap();
        self.line()
    }

    fn apply(&self, rules: &Nftables<'_>) {
        let mut nft =
            self.toolbox.command("nft").args(["-j", "-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        serde_json::to_writer(nft.stdin.take().unwrap(), rules).unwrap();
        assert!(nft.wait().unwrap().success());
    }
}

/// Role, who may come to it, and which ports answer.
type Seen<'a> = (Option<Role>, Option<&'a [IpAddr]>, &'a str);

#[test]
fn exactly_the_ports_of_the_role_answer() {
    let mut networks = Networks::new();
    let server =
        format!("{:?}", [[2121].as_slice(), &(30000..=30009).collect::<Vec<_>>(), &[50000]].concat());
    let me: [IpAddr; 2] = ["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
    let other: [IpAddr; 1] = ["192.0.2.9".parse().unwrap()];
    let table: [Seen<'_>; 7] = [
        (None, None, "[]"),
        (Some(Role::Installer), None, "[]"),
        (Some(Role::BackupServer), None, &server),
        (Some(Role::BackupServer), Some(&me), &server),
        (Some(Role::BackupServer), Some(&other), "[]"),
        (Some(Role::Monitor), None, "[443]"),
        (Some(Role::MonitorRecovery), None, "[443]"),
    ];
    for (role, only, expected) in table {
        // Each takes the place of the one before.
        networks.apply(&firewall::ruleset(role, only));
        for (family, address) in [("INET", "192.0.2.1"), ("INET6", "2001:db8::1")] {
            let scan = |networks: &mut Networks, kind: &str| {
                networks.ask(&format!("answering(socket.AF_{family}, '{address}', socket.{kind})"))
            };
            let seen = scan(&mut networks, "SOCK_STREAM");
            assert_eq!(seen, expected, "TCP {address}, {role:?}, {only:?}");
            assert_eq!(scan(&mut networks, "SOCK_DGRAM"), "[]", "UDP {address}, {role:?}, {only:?}");
        }
    }
}

#[test]
fn one_address_has_so_many_connections() {
    let mut networks = Networks::new();
    networks.apply(&firewall::ruleset(Some(Role::BackupServer), None));
    let listen = "import socket,time
held=[]
for family, address in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    one = socket.socket(family)
    if family == socket.AF_INET6: one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    one.bind((address, 50000)); one.listen(500); held.append(one)
print('here', flush=True)
time.sleep(600)";
    let mut listener = networks.toolbox.command("python3");
    let mut listener = listener.args(["-c", listen]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(listener.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    let counts =
        ["192.0.2.1", "2001:db8::1"].map(|address| networks.ask(&format!("connections('{address}', 50000)")));
    listener.kill().unwrap();
    listener.wait().unwrap();
    assert_eq!(
        counts,
        [firewall::machine::CONNECTIONS_MAX.to_string(), firewall::machine::CONNECTIONS_MAX.to_string()]
    );
}
