//! The worker team: a leader and spinning followers that share one kernel at a time.
//!
//! The thread that calls a kernel is the leader. Inside [`Team::scope`] the followers, which are threads
//! of one rayon pool, wait for jobs by spinning; so a kernel starts on all threads in well under a
//! microsecond, where waking a parked thread takes tens of them. Two sessions share a team by turns: a
//! scope holds the team until it ends.
//!
//! Threads are not equally fast: cores differ, share caches or serve somebody else for a while. So the work of a
//! large job is claimed in parts that get smaller, each thread from its own share first, then from what others
//! have left.
use crate::ahead::Idle;
use crate::buffer::{Buffer, Plain, cast_mut};
use crate::format::TensorType;
use crate::isa::Isa;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Turns of the spin loop before a waiting thread starts to give up its time slice: with a pause of 10 to
/// 40 ns each, tens of microseconds, which is longer than the leader is alone between two kernels.
const SPINS: u32 = 2000;
/// How long a follower yields before it sleeps. Sampling and printing a token take less.
const YIELD: Duration = Duration::from_millis(2);

/// What `work` makes of each of `items`, in their order, on all cores; for work that has no team, such as opening files.
pub fn map_all<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Send + Sync) -> Vec<R> {
    items.par_iter().map(work).collect()
}

/// Threads working in step on one kernel at a time, and the instruction set they use.
pub struct Team {
    isa: Isa,
    shared: Arc<Shared>,
    pool: Option<rayon::ThreadPool>,
    /// Held by the leader for the time of a scope.
    turn: Mutex<()>,
    /// [`thread_key`] of the leader of the running scope, or 0.
    leader: AtomicUsize,
}

/// Why a team could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TeamError {
    /// The machine lacks the instruction set.
    #[error("instruction set {0} is not available on this machine")]
    Unavailable(Isa),
    /// The operating system did not start the threads.
    #[error("cannot start the worker threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

/// One thread's part in a job.
pub(crate) struct Worker<'a> {
    /// 0 is the leader.
    pub index: usize,
    /// Memory of this thread, kept between jobs; contents are left over from earlier ones.
    pub scratch: &'a mut Scratch,
    /// More of the same, for results that still change before they leave this thread.
    pub tile: &'a mut Scratch,
    /// More of the same, for the argument of a job.
    pub input: &'a mut Scratch,
    /// What this thread asks memory for when its part is done.
    pub idle: &'a mut Idle,
    /// This thread among the others.
    pub place: Place<'a>,
}

/// A thread among the others of a job.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    seats: &'a [Seat],
    index: usize,
    least: u32,
}

impl Place<'_> {
    /// This thread's contiguous part of `0..units`.
    pub fn share(&self, units: usize) -> Range<usize> {
        share(units, self.index, self.seats.len())
    }

    /// Some more units for this thread to do, of those given to [`Team::share`], until no thread has any left.
    pub fn take(&self) -> Option<Range<usize>> {
        let count = self.seats.len();
        let own = self.seats[self.index].claim(self.least, true);
        own.or_else(|| (1..count).find_map(|i| self.seats[(self.index + i) % count].claim(self.least, false)))
    }
}

impl Worker<'_> {
    /// This thread's contiguous part of `0..units`.
    pub fn share(&self, units: usize) -> Range<usize> {
        self.place.share(units)
    }
}

#[repr(align(128))]
struct Padded<T>(T);

/// A job: called once on each thread with its index. The lifetime is erased; the leader keeps the closure
/// alive until every follower has reported.
type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// Number of the newest job. The job cell is written before it is raised.
    generation: Padded<AtomicU64>,
    /// Followers that finished the newest job.
    done: Padded<AtomicUsize>,
    /// Followers that sleep or are about to.
    sleepers: Padded<AtomicUsize>,
    /// The newest job; `None` tells the followers to leave.
    job: UnsafeCell<Option<Job>>,
    /// What the first follower to panic left.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    seats: Box<[Seat]>,
}

struct Seat {
    asleep: AtomicBool,
    thread: Mutex<Option<Thread>>,
    scratch: UnsafeCell<[Scratch; 3]>,
    idle: UnsafeCell<Idle>,
    /// The units of the running job that this thread was given and nobody has claimed: the first, and the one
    /// behind the last in the upper half.
    units: Padded<AtomicU64>,
}

// SAFETY: `scratch` and `idle` are used only by the thread that runs this seat's index, within a job and while it
// waits for the next; jobs do not overlap, since `turn` is held and the leader waits for `done`.
unsafe impl Sync for Seat {}

impl Seat {
    fn give(&self, units: Range<usize>) {
        let [start, end] = [units.start, units.end].map(|i| u32::try_from(i).expect("units fit 32 bits"));
        self.units.0.store(pack(start, end), Ordering::Relaxed);
    }

    /// A part of the units left, at least `least` if there are so many: from the front for the owner, from the back
    /// for others. Only the numbers are shared here: what a job writes is published by its end.
    fn claim(&self, least: u32, front: bool) -> Option<Range<usize>> {
        let mut now = self.units.0.load(Ordering::Relaxed);
        loop {
            let (start, end) = (now as u32, (now >> 32) as u32);
            let left = end - start;
            if left == 0 {
                return None;
            }
            // Three quarters of one's own first: few claims, and still enough left for whoever is faster by much.
            let count = if front { left - left / 4 } else { left.div_ceil(2) }.max(least.min(left));
            let (claimed, rest) = if front {
                (start..start + count, pack(start + count, end))
            } else {
                (end - count..end, pack(start, end - count))
            };
            match self.units.0.compare_exchange_weak(now, rest, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(claimed.start as usize..claimed.end as usize),
                Err(other) => now = other,
            }
        }
    }
}

fn pack(start: u32, end: u32) -> u64 {
    u64::from(end) << 32 | u64::from(start)
}

/// The contiguous part that thread `index` of `count` has of `0..units`.
fn share(units: usize, index: usize, count: usize) -> Range<usize> {
    let at = |i: usize| (units as u128 * i as u128 / count as u128) as usize;
    at(index)..at(index + 1)
}

// SAFETY: `job` is written only by the leader while no follower runs a job, and published by `generation`
// (release, acquire); the closure behind it is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing is tied to the thread that made it.
unsafe impl Send for Shared {}

thread_local! {
    /// Set while this thread runs its part of a job: jobs must not nest.
    static IN_JOB: Cell<bool> = const { Cell::new(false) };
}

/// A number that no other living thread has, never 0.
fn thread_key() -> usize {
    IN_JOB.with(|cell| std::ptr::from_ref(cell) as usize)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Team {
    /// A team of `threads` threads (at least one, the caller's among them).
    ///
    /// # Errors
    /// The instruction set is not available here, or the threads cannot be started.
    pub fn new(threads: usize, isa: Isa) -> Result<Team, TeamError> {
        if !isa.is_available() {
            return Err(TeamError::Unavailable(isa));
        }
        let threads = threads.max(1);
        let pool = match threads - 1 {
            0 => None,
            followers => Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(followers)
                    .thread_name(|i| format!("lapwing-{}", i + 1))
                    .build()?,
            ),
        };
        let seats = (0..threads)
            .map(|_| Seat {
                asleep: AtomicBool::new(false),
                thread: Mutex::new(None),
                scratch: UnsafeCell::default(),
                idle: UnsafeCell::default(),
                units: Padded(AtomicU64::new(0)),
            })
            .collect();
        let shared = Shared {
            generation: Padded(AtomicU64::new(0)),
            done: Padded(AtomicUsize::new(0)),
            sleepers: Padded(AtomicUsize::new(0)),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            seats,
        };
        Ok(Team { isa, shared: Arc::new(shared), pool, turn: Mutex::new(()), leader: AtomicUsize::new(0) })
    }

    /// Number of threads, the leader's included.
    pub fn threads(&self) -> usize {
        self.shared.seats.len()
    }

    /// The instruction set of all kernels run on this team.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Runs `f` while the followers stand by: kernels called on this thread inside `f` start without
    /// delay. Waits while another thread has a scope on this team. Scopes may be nested.
    pub fn scope<R>(&self, f: impl FnOnce() -> R) -> R {
        if self.leader.load(Ordering::Relaxed) == thread_key() {
            return f();
        }
        assert!(!IN_JOB.get(), "a job must not open a scope");
        let _turn = lock(&self.turn);
        let _lead = Lead::take(self);
        f()
    }

    /// Calls `f` with each of `0..count`, divided among the threads, and returns when all are done. What it computes
    /// must not depend on the thread.
    ///
    /// # Panics
    /// With the panic of a call, and when `f` calls this team again.
    pub fn for_each(&self, count: usize, f: impl Fn(usize) + Sync) {
        self.share(count, 1, |worker| {
            while let Some(claimed) = worker.place.take() {
                claimed.for_each(&f);
            }
        });
    }

    /// Runs `job` once on every thread and returns when all are done. Which thread does what must not
    /// change the results.
    ///
    /// # Panics
    /// With the panic of a thread, after all have ended their part.
    pub(crate) fn run(&self, job: impl Fn(Worker<'_>) + Sync) {
        self.share(0, 1, job);
    }

    /// As [`Team::run`], with `units` units of work to [claim](Place::take), each thread first from its
    /// [share](Worker::share) of them, at least `least` at once while there are so many.
    ///
    /// # Panics
    /// As [`Team::run`], and when there are more than 2³² − 1 units.
    pub(crate) fn share(&self, units: usize, least: u32, job: impl Fn(Worker<'_>) + Sync) {
        assert!(!IN_JOB.get(), "jobs must not nest");
        let shared = &*self.shared;
        let count = self.threads();
        let part = |index: usize| {
            let _inside = Inside::enter();
            let seat = &shared.seats[index];
            // SAFETY: only one thread runs index `index` of a job, and jobs do not overlap.
            let ([scratch, tile, input], idle) = unsafe { (&mut *seat.scratch.get(), &mut *seat.idle.get()) };
            scratch.laid = None;
            *idle = Idle::default();
            let place = Place { seats: &shared.seats, index, least };
            job(Worker { index, scratch, tile, input, idle, place });
        };
        self.scope(|| {
            for (index, seat) in shared.seats.iter().enumerate() {
                seat.give(share(units, index, count));
            }
            if self.pool.is_none() {
                return part(0);
            }
            shared.publish(Some(&part));
            let wait = Wait(shared);
            part(0);
            drop(wait);
            if let Some(payload) = lock(&shared.panic).take() {
                resume_unwind(payload);
            }
        });
    }
}

/// Marks this thread as inside a job until dropped.
struct Inside;

impl Inside {
    fn enter() -> Self {
        IN_JOB.set(true);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        IN_JOB.set(false);
    }
}

/// Waits, when dropped, until every follower has finished the newest job, even while a panic unwinds.
struct Wait<'a>(&'a Shared);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.wait_done();
    }
}

/// The time in which one thread leads the team.
struct Lead<'a>(&'a Team);

impl<'a> Lead<'a> {
    fn take(team: &'a Team) -> Self {
        team.leader.store(thread_key(), Ordering::Relaxed);
        *lock(&team.shared.panic) = None;
        if let Some(pool) = &team.pool {
            let shared = Arc::clone(&team.shared);
            let seen = shared.generation.0.load(Ordering::Relaxed);
            pool.spawn_broadcast(move |context| shared.follow(context.index() + 1, seen));
        }
        Lead(team)
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if self.0.pool.is_some() {
            self.0.shared.publish(None);
            self.0.shared.wait_done();
        }
        self.0.leader.store(0, Ordering::Relaxed);
    }
}

impl Shared {
    fn followers(&self) -> usize {
        self.seats.len() - 1
    }

    /// Hands a job (or the order to leave) to the followers. Called by the leader, while none runs one.
    fn publish<'a>(&self, job: Option<&'a (dyn Fn(usize) + Sync + 'a)>) {
        let job = job.map(|job| {
            let job: *const (dyn Fn(usize) + Sync + 'a) = job;
            // SAFETY: only the lifetime changes. `Team::run` keeps the closure until `wait_done` has seen
            // every follower finish, also when its own part panics.
            unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + 'a), Job>(job) }
        });
        self.done.0.store(0, Ordering::Relaxed);
        // SAFETY: all followers have reported the previous job, so none reads the cell now.
        unsafe { *self.job.get() = job };
        // Sequentially consistent with the check before sleeping: either the follower sees the new
        // number, or this thread sees the sleeper.
        self.generation.0.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.0.load(Ordering::SeqCst) > 0 {
            for seat in self.seats[1..].iter().filter(|seat| seat.asleep.load(Ordering::SeqCst)) {
                if let Some(thread) = &*lock(&seat.thread) {
                    thread.unpark();
                }
            }
        }
    }

    fn wait_done(&self) {
        let mut spins = 0;
        // SAFETY: called by the leader alone, outside of its part of a job.
        let idle = unsafe { &mut *self.seats[0].idle.get() };
        while self.done.0.load(Ordering::Acquire) < self.followers() {
            if !idle.ask() {
                pause(&mut spins);
            }
        }
    }

    /// The life of a follower in one scope; `seen` is the job number at its start.
    fn follow(&self, index: usize, mut seen: u64) {
        *lock(&self.seats[index].thread) = Some(std::thread::current());
        loop {
            self.wait_job(&self.seats[index], seen);
            // The leader waits for this thread before it raises the number again.
            seen += 1;
            // SAFETY: the cell was written before the number was raised, and stays until this thread
            // reports below.
            let job = unsafe { *self.job.get() };
            let Some(job) = job else {
                self.done.0.fetch_add(1, Ordering::Release);
                return;
            };
            // SAFETY: the leader keeps the closure alive until this thread reports below.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*job)(index) }));
            if let Err(payload) = result {
                lock(&self.panic).get_or_insert(payload);
            }
            self.done.0.fetch_add(1, Ordering::Release);
        }
    }

    /// Waits for a job newer than `seen`: spins, then yields, then sleeps.
    fn wait_job(&self, seat: &Seat, seen: u64) {
        let news = || self.generation.0.load(Ordering::Acquire) != seen;
        // SAFETY: called by the thread of this seat, outside of its part of a job.
        let idle = unsafe { &mut *seat.idle.get() };
        for _ in 0..SPINS {
            if news() {
                return;
            }
            if !idle.ask() {
                std::hint::spin_loop();
            }
        }
        let start = Instant::now();
        while start.elapsed() < YIELD {
            if news() {
                return;
            }
            std::thread::yield_now();
        }
        seat.asleep.store(true, Ordering::SeqCst);
        self.sleepers.0.fetch_add(1, Ordering::SeqCst);
        while self.generation.0.load(Ordering::SeqCst) == seen {
            std::thread::park();
        }
        self.sleepers.0.fetch_sub(1, Ordering::SeqCst);
        seat.asleep.store(false, Ordering::SeqCst);
    }
}

/// One turn of a loop that waits for work in progress: spins at first, then yields to whoever has it to do.
pub(crate) fn pause(spins: &mut u32) {
    if *spins < SPINS {
        *spins += 1;
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

/// Memory of one thread: it only grows.
#[derive(Default)]
pub(crate) struct Scratch {
    memory: Buffer<u8>,
    /// The format of weights for which the running job has laid out its argument at the start of this memory.
    pub laid: Option<TensorType>,
}

impl Scratch {
    /// The first `len` values, aligned to 64 bytes; their contents are left over from earlier use.
    pub fn get<T: Plain>(&mut self, len: usize) -> &mut [T] {
        let bytes = len * size_of::<T>();
        if self.memory.len() < bytes {
            self.memory.grow(bytes);
            self.laid = None;
        }
        cast_mut(&mut self.memory[..bytes])
    }
}

impl Scratch {
    /// The first `len` values, for the argument of the running job as the products of weights of type `ty` read it;
    /// and whether it still has to be laid out there, at `len` always the same for a type.
    pub fn lay_out<T: Plain>(&mut self, ty: TensorType, len: usize) -> (&mut [T], bool) {
        self.get::<T>(len);
        let fresh = self.laid.replace(ty) != Some(ty);
        (self.get(len), fresh)
    }
}

/// A mutable slice that the threads of a job write disjoint parts of.
pub(crate) struct SharedMut<'a, T> {
    data: *mut T,
    len: usize,
    _borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: `slice` obliges its callers to keep the parts of different threads apart.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: a mutable borrow of `T: Send` values may move to another thread.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Shares `data` for the time of its borrow.
    pub fn new(data: &'a mut [T]) -> Self {
        SharedMut { data: data.as_mut_ptr(), len: data.len(), _borrow: PhantomData }
    }

    /// Where it begins, to be prefetched.
    pub fn as_ptr(&self) -> *const T {
        self.data
    }

    /// The part `range`.
    ///
    /// # Safety
    /// No other slice obtained from this value overlaps `range` while the result lives.
    ///
    /// # Panics
    /// When `range` is out of bounds.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part out of bounds");
        // SAFETY: in bounds of the borrowed slice; the caller promises that no other reference overlaps.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.end - range.start) }
    }

    /// All of it, to read.
    ///
    /// # Safety
    /// Nobody writes to any part while the result lives, and all writes happened before.
    pub unsafe fn all(&self) -> &[T] {
        // SAFETY: the borrowed slice; the caller promises that no mutable reference overlaps.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

#[cfg(test)]
mod tests;
