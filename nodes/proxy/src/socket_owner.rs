//! The process at the other end of a connection within this machine.

use std::{fmt, fs, io, net::SocketAddr, os::unix::fs::MetadataExt, path::Path};

/// A process that has a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SocketOwner {
    /// The user that made the socket.
    pub(crate) uid: u32,
    /// The process that has it open; unknown to whoever may not look at it.
    pub(crate) pid: Option<u32>,
    /// Its control group, from the root of the hierarchy.
    pub(crate) cgroup: Option<String>,
}

// === impl SocketOwner ===

impl SocketOwner {
    /// Who has the socket whose local address is `theirs` and whose peer is `ours`; `None` if it is not on this machine.
    /// Blocks while it reads `/proc`, whose tables grow with the machine's connections.
    pub(crate) fn of(theirs: SocketAddr, ours: SocketAddr) -> Option<Self> {
        let (uid, inode) = find_socket(theirs, ours)?;
        let pid = find_process(inode, uid);
        let cgroup = pid.and_then(|pid| cgroup_of(pid).ok().flatten());
        Some(Self { uid, pid, cgroup })
    }
}

impl fmt::Display for SocketOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a process of user {}", self.uid)?;
        if let Some(pid) = self.pid {
            write!(f, ", id {pid}")?;
        }
        if let Some(cgroup) = &self.cgroup {
            write!(f, ", in {cgroup}")?;
        }
        Ok(())
    }
}

/// User and inode of the socket, from the kernel's tables (proc_pid_net(5)).
fn find_socket(theirs: SocketAddr, ours: SocketAddr) -> Option<(u32, u64)> {
    let tables = if theirs.is_ipv4() {
        // A socket of IPv6 that speaks IPv4 stands in the other table.
        [("/proc/net/tcp", false), ("/proc/net/tcp6", true)]
    } else {
        [("/proc/net/tcp6", false), ("/proc/net/tcp", true)]
    };
    tables.into_iter().find_map(|(table, mapped)| {
        let (local, remote) = (hex_address(theirs, mapped)?, hex_address(ours, mapped)?);
        fs::read_to_string(table).ok()?.lines().skip(1).find_map(|line| {
            let mut columns = line.split_ascii_whitespace().skip(1);
            let is_it = columns.next()? == local && columns.next()? == remote;
            if !is_it {
                return None;
            }
            let uid = columns.nth(4)?.parse().ok()?;
            let inode = columns.nth(1)?.parse().ok()?;
            Some((uid, inode))
        })
    })
}

/// An address as the kernel's tables print it: words in the machine's order, in hexadecimal.
fn hex_address(address: SocketAddr, mapped: bool) -> Option<String> {
    let words: Vec<[u8; 4]> = match address {
        SocketAddr::V4(address) if !mapped => vec![address.ip().octets()],
        SocketAddr::V4(address) => words_of(&address.ip().to_ipv6_mapped().octets()),
        SocketAddr::V6(address) if !mapped => words_of(&address.ip().octets()),
        SocketAddr::V6(address) => vec![address.ip().to_ipv4_mapped()?.octets()],
    };
    let words: String =
        words.into_iter().map(|word| format!("{:08X}", u32::from_ne_bytes(word))).collect();
    Some(format!("{words}:{:04X}", address.port()))
}

fn words_of(octets: &[u8; 16]) -> Vec<[u8; 4]> {
    octets.chunks_exact(4).filter_map(|word| word.try_into().ok()).collect()
}

/// The process that has the socket open. Those of other users cannot be looked at without privilege.
fn find_process(inode: u64, uid: u32) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let is_of_user = entry.metadata().is_ok_and(|metadata| metadata.uid() == uid);
        let has_it = is_of_user
            && fs::read_dir(entry.path().join("fd")).ok()?.flatten().any(|descriptor| {
                fs::read_link(descriptor.path())
                    .is_ok_and(|target| target.as_os_str() == wanted.as_str())
            });
        has_it.then_some(pid)
    })
}

/// The control group of a process, of the unified hierarchy.
fn cgroup_of(pid: u32) -> io::Result<Option<String>> {
    let groups = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("cgroup"))?;
    Ok(groups.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn owner_over(bind: &str) {
        let listener = TcpListener::bind(bind).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, theirs) = listener.accept().unwrap();
        let owner = SocketOwner::of(theirs, accepted.local_addr().unwrap()).unwrap();
        assert_eq!(owner.uid, rustix::process::getuid().as_raw());
        assert_eq!(owner.pid, Some(std::process::id()));
        drop(client);
    }

    #[test]
    fn the_process_at_the_other_end_is_found() {
        owner_over("127.0.0.1:0");
    }

    #[test]
    fn an_address_elsewhere_has_no_owner() {
        let elsewhere = "192.0.2.1:4711".parse().unwrap();
        assert_eq!(SocketOwner::of(elsewhere, "192.0.2.2:80".parse().unwrap()), None);
    }
}
