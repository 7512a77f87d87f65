//! A small SMTP server on loopback that keeps what it is given.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

#[derive(Clone, Default)]
pub(crate) struct Behaviour {
    /// With it, TLS is offered by STARTTLS, or spoken from the start.
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) implicit: bool,
    /// The reply to a command that begins with the first text is the second.
    pub(crate) replies: Vec<(&'static str, &'static str)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// Each command, with whether it came over TLS.
    pub(crate) commands: Vec<(String, bool)>,
    pub(crate) mail: Option<String>,
}

/// Changes what is kept of a session.
type Note<'a> = dyn Fn(&mut dyn FnMut(&mut Session)) + Sync + 'a;

pub(crate) struct MailServer {
    pub(crate) port: u16,
    sessions: Arc<Mutex<Vec<Session>>>,
    task: tokio::task::JoinHandle<()>,
}

impl MailServer {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let sessions = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&sessions);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (behaviour, kept) = (behaviour.clone(), Arc::clone(&kept));
                let index = {
                    let mut kept = kept.lock().unwrap();
                    kept.push(Session::default());
                    kept.len() - 1
                };
                tokio::spawn(async move {
                    let note = |change: &mut dyn FnMut(&mut Session)| {
                        change(&mut kept.lock().unwrap()[index]);
                    };
                    if behaviour.implicit {
                        let tls = behaviour.tls.clone().unwrap();
                        let Ok(stream) = tls.accept(stream).await else { return };
                        talk(stream, &behaviour, true, true, &note).await;
                        return;
                    }
                    let Some(stream) = talk(stream, &behaviour, false, true, &note).await else {
                        return;
                    };
                    let Ok(stream) = behaviour.tls.clone().unwrap().accept(stream).await else {
                        return;
                    };
                    talk(stream, &behaviour, true, false, &note).await;
                });
            }
        });
        Self { port, sessions, task }
    }

    pub(crate) fn sessions(&self) -> Vec<Session> {
        self.sessions.lock().unwrap().clone()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Talks until the end, or until TLS is to begin: then the stream is returned.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    behaviour: &Behaviour,
    encrypted: bool,
    greets: bool,
    note: &Note<'_>,
) -> Option<S> {
    let mut stream = BufReader::new(stream);
    if greets {
        stream.write_all(b"220 mail.example ready\r\n").await.ok()?;
    }
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let command = line.trim_end().to_owned();
        note(&mut |session| session.commands.push((command.clone(), encrypted)));
        let scripted = behaviour.replies.iter().find(|(start, _)| command.starts_with(start));
        let reply = match scripted {
            Some((_, reply)) => (*reply).to_owned(),
            None if command.starts_with("EHLO") => {
                let tls =
                    if behaviour.tls.is_some() && !encrypted { "250-STARTTLS\r\n" } else { "" };
                format!("250-mail.example\r\n{tls}250-8BITMIME\r\n250 AUTH PLAIN LOGIN\r\n")
            }
            None if command == "STARTTLS" => "220 go on\r\n".to_owned(),
            None if command == "DATA" => "354 go on\r\n".to_owned(),
            None if command == "QUIT" => "221 bye\r\n".to_owned(),
            None => "250 2.0.0 ok\r\n".to_owned(),
        };
        stream.write_all(reply.as_bytes()).await.ok()?;
        match command.as_str() {
            "STARTTLS" if reply.starts_with("220") => return Some(stream.into_inner()),
            "QUIT" => return None,
            "DATA" if reply.starts_with("354") => {
                let mut mail = String::new();
                while !mail.ends_with("\r\n.\r\n") {
                    if stream.read_line(&mut mail).await.ok()? == 0 {
                        return None;
                    }
                }
                note(&mut |session| session.mail = Some(mail.clone()));
                stream.write_all(b"250 2.0.0 kept\r\n").await.ok()?;
            }
            _ => {}
        }
    }
}
