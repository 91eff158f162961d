//! A store's HTTP interface in the test's own process, which misbehaves on demand.

#![allow(dead_code, reason = "each test crate uses a part of it")]

mod image;

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub use image::Sample;

/// What to do wrong, once.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Close the connection without a word.
    Hang,
    /// Say nothing and keep the connection open until the client goes.
    Silence,
    /// Answer with this status.
    Status(u16),
    /// End the body after so many bytes, with the full length announced.
    Cut(usize),
    /// Flip a bit of the body's byte at this offset.
    Damage(usize),
    /// Answer a range with 200 and everything.
    NoRange,
    /// Send the range that starts a byte later.
    OtherRange,
    /// Send something that is not HTTP.
    Garbage,
    /// Announce a body of this length.
    Announce(u64),
}

/// The server. It stops with the test's process.
pub struct Server {
    pub base: String,
    pub state: Arc<State>,
}

/// Answers a body posted to a path.
pub type Handler = Box<dyn Fn(&str, &[u8]) -> Vec<u8> + Send>;

/// What a test may look at and change while the server runs.
#[derive(Default)]
pub struct State {
    posted: Mutex<Option<Handler>>,
    files: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
    faults: Mutex<VecDeque<(String, Fault)>>,
    /// Bodies of packs sent, in bytes.
    pub pack_bytes: AtomicU64,
    /// Requests for packs.
    pub pack_requests: AtomicUsize,
    /// All requests.
    pub requests: AtomicUsize,
}

impl Server {
    /// Starts with the files of these images.
    pub fn start(samples: &[&Sample]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State::default());
        for sample in samples {
            state.files.lock().unwrap().extend(sample.files());
        }
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Server { base, state }
    }

    /// The next request whose path contains `path` goes wrong like this.
    pub fn fault(&self, path: &str, fault: Fault) {
        self.state.faults.lock().unwrap().push_back((path.to_owned(), fault));
    }

    /// Answers what is posted from now on.
    pub fn on_post(&self, handler: Handler) {
        *self.state.posted.lock().unwrap() = Some(handler);
    }

    /// Adds a file.
    pub fn file(&self, path: &str, bytes: Vec<u8>) {
        self.state.files.lock().unwrap().insert(path.to_owned(), Arc::new(bytes));
    }

    /// Faults that did not happen yet.
    pub fn faults_left(&self) -> usize {
        self.state.faults.lock().unwrap().len()
    }

    /// Forgets all faults.
    pub fn behave(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    /// Changes a file for good.
    pub fn replace(&self, path: &str, bytes: Vec<u8>) {
        let mut files = self.state.files.lock().unwrap();
        let key = files.keys().find(|key| key.contains(path)).unwrap().clone();
        files.insert(key, Arc::new(bytes));
    }

    /// Bytes of packs sent since the last call.
    pub fn take_pack_bytes(&self) -> u64 {
        self.state.pack_bytes.swap(0, Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, state: &State) {
    // Answers are written in pieces: none waits until the one before is acknowledged.
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let Some(Request { path, range, body }) = request(&mut reader) else { return };
        state.requests.fetch_add(1, Ordering::SeqCst);
        let mut faults = state.faults.lock().unwrap();
        let fault = faults.iter().position(|(part, _)| path.contains(part.as_str()));
        let fault = fault.and_then(|at| faults.remove(at)).map(|(_, fault)| fault);
        drop(faults);
        let answered = match (&body, fault) {
            (Some(body), None) => post(&stream, state, &path, body),
            _ => answer(&stream, state, &path, range, fault),
        };
        if answered.is_none() {
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    }
}

struct Request {
    path: String,
    range: Option<(usize, usize)>,
    /// Of a request that has one.
    body: Option<Vec<u8>>,
}

fn request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut range, mut body) = (None, None);
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("range: bytes=") {
            let (first, last) = value.split_once('-')?;
            range = Some((first.parse().ok()?, last.parse::<usize>().ok()? + 1));
        }
        if let Some(length) = header.strip_prefix("content-length: ") {
            body = Some(vec![0; length.parse().ok()?]);
        }
    }
    if let Some(body) = &mut body {
        reader.read_exact(body).ok()?;
    }
    Some(Request { path, range, body })
}

fn post(mut stream: &TcpStream, state: &State, path: &str, body: &[u8]) -> Option<()> {
    let handler = state.posted.lock().unwrap();
    let body = handler.as_ref()?(path, body);
    let head = format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}

/// `None` where the connection is to be closed.
fn answer(
    mut stream: &TcpStream,
    state: &State,
    path: &str,
    range: Option<(usize, usize)>,
    fault: Option<Fault>,
) -> Option<()> {
    let file = state.files.lock().unwrap().get(path).cloned();
    let is_pack = path.starts_with("/v1/packs/");
    let (mut status, mut start, mut end) = (200, 0, file.as_ref().map_or(0, |f| f.len()));
    if let (Some((first, after)), Some(file)) = (range, &file) {
        (status, start, end) = (206, first, after);
        if after > file.len() || first >= after {
            (status, start, end) = (416, 0, 0);
        }
    }
    match fault {
        Some(Fault::Hang) => return None,
        Some(Fault::Silence) => {
            let _ = stream.read(&mut [0]);
            return None;
        }
        Some(Fault::Garbage) => {
            stream.write_all(&[0x16; 300]).ok()?;
            return None;
        }
        Some(Fault::NoRange) => (status, start, end) = (200, 0, file.as_ref()?.len()),
        Some(Fault::OtherRange) => (start, end) = (start + 1, end + 1),
        Some(Fault::Status(code)) => status = code,
        _ => {}
    }
    let mut body = match (status, file) {
        (200 | 206, Some(file)) => file[start..end].to_vec(),
        (200 | 206, None) => {
            status = 404;
            br#"{"error":"no such thing"}"#.to_vec()
        }
        _ => br#"{"error":"scripted"}"#.to_vec(),
    };
    let mut announced = body.len() as u64;
    match fault {
        Some(Fault::Cut(bytes)) => body.truncate(bytes),
        Some(Fault::Damage(at)) => body[at] ^= 1,
        Some(Fault::Announce(bytes)) => announced = bytes,
        _ => {}
    }
    let content_range = match status {
        206 => format!("Content-Range: bytes {start}-{}/*\r\n", end - 1),
        _ => String::new(),
    };
    let head = format!("HTTP/1.1 {status} x\r\nContent-Length: {announced}\r\n{content_range}\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()?;
    if is_pack {
        state.pack_bytes.fetch_add(body.len() as u64, Ordering::SeqCst);
        state.pack_requests.fetch_add(1, Ordering::SeqCst);
    }
    (announced == body.len() as u64).then_some(())
}
