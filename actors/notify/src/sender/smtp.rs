//! One mail over SMTP (RFC 5321).
//!
//! The connection is dialled here, to an address that the guard admits, and encrypted here, while the certificate is
//! checked for the name; the mail library talks over it. So names are resolved once, both kinds of encryption trust the
//! same certificates, and what a server says is bounded.

use std::{
    error::Error as _,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use aa_vault::SecretValue;
use lettre::{
    Message as Mail,
    transport::smtp::{
        Error as SmtpError,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, AsyncTokioStream},
        extension::ClientId,
    },
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{CHECK_RECEIVER, SET_ANEW, SET_SECRET, SendError, Sender, Sent, WAIT};
use crate::{
    destination::{EmailChannel, Security, address},
    guard::Host,
};

pub(super) struct Delivery<'a> {
    pub(super) sender: &'a Sender,
    pub(super) channel: &'a EmailChannel,
    pub(super) host: &'a Host,
    pub(super) place: &'a str,
    pub(super) password: Option<&'a SecretValue>,
}

/// A connection that reads no more than [`MAX_ANSWER_BYTES`], after a text of our own.
struct Bounded<S> {
    stream: S,
    /// What is read first.
    before: &'static [u8],
    left: usize,
    peer: SocketAddr,
}

/// How long one of a name's addresses may take to be reached, so that the others get their turn.
const PER_ADDRESS: Duration = Duration::from_secs(5);
/// How much a server may say, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The longest line of a reply (RFC 5321 §4.5.3.1.5, with room).
const MAX_LINE_BYTES: usize = 1_024;
/// The most lines of a reply.
const MAX_LINES: usize = 64;

// === impl Delivery ===

impl Delivery<'_> {
    pub(super) async fn run(&self, mail: &Mail) -> Result<Sent, SendError> {
        let from = address(&self.channel.from);
        let from = from.map_err(|problem| SendError::for_good(self.place, problem, SET_ANEW))?;
        let hello = from.domain().to_owned();
        let tcp = self.dial().await?;
        let stream = self.encrypt(tcp, &hello).await;
        let stream = stream.map_err(|error| SendError::unreachable(self.place, &error))?;
        let hello = ClientId::Domain(hello);
        let mut connection = AsyncSmtpConnection::connect_with_transport(stream, &hello)
            .await
            .map_err(|error| self.failed("the greeting", &error))?;
        if let (Some(username), Some(password)) = (&self.channel.username, self.password) {
            let Some(password) = password.expose_text() else {
                let problem = "needs a password that is text".to_owned();
                return Err(SendError::for_good(self.place, problem, SET_SECRET));
            };
            let credentials = Credentials::new(username.clone(), password.to_owned());
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            let accepted = connection.auth(&mechanisms, &credentials).await;
            accepted.map_err(|error| self.failed("the account", &error))?;
        }
        let sent = connection.send(mail.envelope(), &mail.formatted()).await;
        let response = sent.map_err(|error| self.failed("the mail", &error))?;
        // The mail is delivered, whatever becomes of the farewell.
        let _ = tokio::time::timeout(Duration::from_secs(1), connection.quit()).await;
        let code = response.code().to_string().parse().unwrap_or(250);
        Ok(Sent { code })
    }

    /// Dials the admitted addresses in turn.
    async fn dial(&self) -> Result<TcpStream, SendError> {
        let addresses = self.sender.guard.resolve(self.host, &*self.sender.lookup).await;
        let addresses = addresses.map_err(|error| SendError::guarded(self.place, &error))?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            let dialled = TcpStream::connect((address, self.channel.port));
            match tokio::time::timeout(PER_ADDRESS, dialled).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(SendError::unreachable(self.place, &last))
    }

    async fn encrypt(&self, tcp: TcpStream, hello: &str) -> io::Result<Box<dyn AsyncTokioStream>> {
        let peer = tcp.peer_addr()?;
        let mut plain = Bounded { stream: tcp, before: b"", left: MAX_ANSWER_BYTES, peer };
        let before: &[u8] = match self.channel.security {
            Security::None => return Ok(Box::new(plain)),
            Security::Tls => b"",
            Security::Starttls => {
                plain.start_tls(hello).await?;
                // After it there is no second greeting, which the mail library waits for.
                b"220 encrypted\r\n"
            }
        };
        let name = match self.host {
            Host::Name(name) => ServerName::try_from(name.to_string()).map_err(io::Error::other)?,
            Host::Address(address) => ServerName::from(*address),
        };
        let connector = TlsConnector::from(std::sync::Arc::clone(&self.sender.tls));
        let stream = connector.connect(name, plain.stream).await?;
        Ok(Box::new(Bounded { stream, before, left: MAX_ANSWER_BYTES, peer }))
    }

    /// What the server refused. Its own words are left out, for they may repeat what it was told.
    fn failed(&self, what: &str, error: &SmtpError) -> SendError {
        let Some(code) = error.status() else {
            let problem = match error.source() {
                Some(source) => {
                    format!("failed at {what}: {}", crate::text::plain(&source.to_string(), 200))
                }
                None => format!("failed at {what}"),
            };
            // What is not the server's answer is our own finding, such as a mechanism it does not know.
            return if error.is_client() {
                SendError::for_good(self.place, problem, SET_ANEW)
            } else {
                SendError::for_now(self.place, problem, CHECK_RECEIVER)
            };
        };
        let words = error.source().map(ToString::to_string).unwrap_or_default();
        let enhanced = words.split(' ').next().filter(|word| is_enhanced_code(word));
        let enhanced = enhanced.map(|code| format!(" ({code})")).unwrap_or_default();
        let problem = format!("refused {what} with {code}{enhanced}");
        if error.is_permanent() {
            SendError::for_good(self.place, problem, "check account, sender and recipients")
        } else {
            SendError::for_now(self.place, problem, WAIT)
        }
    }
}

/// Whether it is a code such as `5.7.1` (RFC 3463).
fn is_enhanced_code(word: &str) -> bool {
    let mut parts = word.split('.');
    let is_number = |part: Option<&str>, most: usize| {
        part.is_some_and(|part| {
            (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    is_number(parts.next(), 1)
        && is_number(parts.next(), 3)
        && is_number(parts.next(), 3)
        && parts.next().is_none()
}

// === impl Bounded ===

impl Bounded<TcpStream> {
    /// Has the server begin with TLS (RFC 3207). What it says before is not trusted for anything else, and what it says
    /// behind the last reply is left to TLS, where it fails.
    async fn start_tls(&mut self, hello: &str) -> io::Result<()> {
        self.reply(b"220", &mut |_| {}).await?;
        self.stream.write_all(format!("EHLO {hello}\r\n").as_bytes()).await?;
        let mut can = false;
        self.reply(b"250", &mut |word| can |= word.trim_ascii().eq_ignore_ascii_case(b"STARTTLS"))
            .await?;
        if !can {
            return Err(io::Error::other("the server has no STARTTLS; use security `tls`"));
        }
        self.stream.write_all(b"STARTTLS\r\n").await?;
        self.reply(b"220", &mut |_| {}).await
    }

    /// Reads a reply, which must have this code.
    async fn reply(&mut self, code: &[u8], each: &mut impl FnMut(&[u8])) -> io::Result<()> {
        for _ in 0..MAX_LINES {
            let line = self.line().await?;
            let (found, rest) = line.split_at_checked(3).unwrap_or_default();
            if found != code {
                let found = String::from_utf8_lossy(found).into_owned();
                let found = if found.bytes().all(|byte| byte.is_ascii_digit()) {
                    found
                } else {
                    String::new()
                };
                return Err(io::Error::other(format!("the server answered {found} before TLS")));
            }
            each(rest.get(1..).unwrap_or_default());
            if rest.first() != Some(&b'-') {
                return Ok(());
            }
        }
        Err(io::Error::other("the server's reply has too many lines"))
    }

    /// Reads a line, and nothing behind it: that would belong to TLS.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        while line.len() < MAX_LINE_BYTES {
            match self.read_u8().await? {
                b'\n' => return Ok(line),
                byte => line.push(byte),
            }
        }
        Err(io::Error::other("the server's reply has too long a line"))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let (now, later) = self.before.split_at(self.before.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.before = later;
            return Poll::Ready(Ok(()));
        }
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::other("the server says more than is read")));
        }
        // A part of the buffer would have to be marked as filled by unsafe code.
        let mut chunk = [0; 1_024];
        let room = buffer.remaining().min(self.left).min(chunk.len());
        let mut part = ReadBuf::new(&mut chunk[..room]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut part))?;
        buffer.put_slice(part.filled());
        let read = part.filled().len();
        self.left -= read;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S> fmt::Debug for Bounded<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounded").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> AsyncTokioStream for Bounded<S> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}
