/*
 * Leases: one sidecar, its memory, and hosts. The sidecar may be killed between any two stores and at the end of every system call, a host at any
 * time; a successor goes on with what is in the memory (manager/succeed.go).
 *
 * What is here by its own name is in the code too. A frame is one number, positions count frames. Flags turn single steps into wrong ones (see check).
 */

#ifndef CONNECTIONS
#define CONNECTIONS 1
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef REQUESTS
#define REQUESTS 2
#endif
#ifndef NACKS
#define NACKS 0
#endif
#ifndef REVOKES
#define REVOKES 0
#endif
#ifndef ECHOES
#define ECHOES 0
#endif
#ifndef CUTS
#define CUTS 0
#endif
#define HOSTS 2
#define CAPACITY 2        /* leases of a host at once: more than connections */
#define SOCKET 3          /* frames that a socket holds */
#define ROOM 5            /* frames in an outbox or an inbox */

/* Frames */
#define LEASE 1
#define FORGET 2
#define PUT 3
#define NACK 4
#define frame(type, c, number) ((type) << 4 | (c) << 3 | (number))
#define typeOf(f) ((f) >> 4)
#define connOf(f) ((f) >> 3 & 1)
#define seqOf(f) ((f) & 7)

/* States */
#define Idle 1
#define Ready 2
#define Leased 3
#define Closing 4
#define Free 5

/* The memory: records, outboxes, inboxes. It outlives the sidecar's process. */
byte state[CONNECTIONS];
byte host[CONNECTIONS];
byte seq[CONNECTIONS];
bool moving[CONNECTIONS];
bool attached[HOSTS];
typedef outbox { byte buf[ROOM]; byte sent, end, last, moved, at };
typedef inbox { byte buf[ROOM]; byte start, end, moved, at };
outbox out[HOSTS];
inbox in[HOSTS];

/* The kernel: sockets. What a process had sent before it died can be read. */
chan down[HOSTS] = [SOCKET] of { byte };
chan up[HOSTS] = [SOCKET] of { byte };
bool hungUp[HOSTS];       /* by the sidecar */

/* The world. lent is what a host believes: the number of the lease that it has, 0 for none; before is one that it has put, and may put again. */
typedef belief { byte lent[CONNECTIONS]; byte before[CONNECTIONS] };
belief its[HOSTS];
bool dead[HOSTS];
bool asked[CONNECTIONS];  /* a request is there */
bool begun[CONNECTIONS];  /* a host has read it */
bool ended[CONNECTIONS];  /* the sidecar has ended the connection for everybody */
bool killed;              /* the sidecar's process */
byte kills = KILLS, deaths = DEATHS, requests = REQUESTS, nacks = NACKS, revokes = REVOKES, cuts = CUTS, echoes = ECHOES;

/* Only assertions look at these. */
byte delivered[CONNECTIONS];   /* number of the last lease that a host got */
byte applied[CONNECTIONS];     /* and of the last that a PUT has ended */

/* Outbox.Add */
inline add(h, f) {
	assert(out[h].end < ROOM);
#ifndef LAST_TOO_LATE
	out[h].last = out[h].end;
#endif
#ifdef END_BEFORE_BYTES
	out[h].end = out[h].end + 1;
	out[h].buf[out[h].end - 1] = f;
#else
	out[h].buf[out[h].end] = f;
	out[h].end = out[h].end + 1;
#endif
#ifdef LAST_TOO_LATE
	out[h].last = out[h].end - 1;
#endif
}

#define waiting(h) (out[h].end > out[h].sent)

/* Outbox.progress, then Flush's end */
inline progress(h) {
#ifdef SETTLED_BEFORE_SENT
	n = out[h].moved;
	out[h].moved = 0;
	out[h].sent = out[h].sent + n; n = 0;
#else
	out[h].sent = out[h].sent + out[h].moved;
	out[h].moved = 0;
#endif
	if
	:: !waiting(h) -> reset(h)
	:: else
	fi
}

inline reset(h) {
#ifdef SENT_BEFORE_END
	out[h].sent = 0;
	out[h].end = 0
#else
	out[h].end = 0;
	out[h].sent = 0
#endif
}

/* Outbox.Flush: one sendmmsg(2), of as many frames as the socket takes. */
inline flush(h) {
	d_step { out[h].moved = 0; out[h].at = out[h].sent };
	d_step {
		do
		:: out[h].sent + out[h].moved < out[h].end && len(down[h]) < SOCKET ->
			down[h] ! out[h].buf[out[h].sent + out[h].moved];
			out[h].moved++
		:: else -> break
		od
	};
	progress(h)
}

/* policy.enter: since and lists are not here. The state comes before the end of the move. */
inline enter(c, s) {
	moving[c] = true;
	state[c] = s;
	moving[c] = false
}

/* policy.close and gone. The connection has ended for everybody who has it. That its host is told comes first: a successor looks for it. */
inline close(c, tell) {
	if
	:: tell -> add(host[c], frame(FORGET, c, 0))
	:: else
	fi;
	d_step { ended[c] = true; state[c] = Closing };
	state[c] = Free
}

/* policy.lease */
inline lease(c, h) {
	moving[c] = true;
	host[c] = h;
	seq[c] = seq[c] + 1;
#ifdef RECORD_BEFORE_FRAME
	state[c] = Leased;
	moving[c] = false;
	add(h, frame(LEASE, c, seq[c]))
#else
	add(h, frame(LEASE, c, seq[c]));
	state[c] = Leased;
	moving[c] = false
#endif
}

#define untouched(c) (asked[c] && !begun[c])     /* what the kernel says of the request (fateOf) */

/* policy.orphan: a request that nobody has read, and nobody is about to read, another host can serve. */
inline orphan(c, gone) {
	if
#ifdef REDELIVER_FROM_THE_LIVING
	:: untouched(c) -> enter(c, Ready)
#else
	:: untouched(c) && gone -> enter(c, Ready)
#endif
	:: else -> close(c, false)
	fi
}

/* Manager.hangUp. gone: the host's end of the socket is closed, and all that it had said is obeyed; else it still reads what was sent. */
inline hangUp(h, gone) {
	c = 0;
	do
	:: c < CONNECTIONS ->
		if
		:: state[c] == Leased && host[c] == h -> orphan(c, gone)
		:: else
		fi;
		c++
	:: else -> break
	od;
	c = 0;
	reset(h);
	d_step { attached[h] = false; hungUp[h] = true };
}

/* policy.put, policy.nack; answers to leases that are over change nothing. */
inline obey(h, f) {
	if
#ifdef ANY_NUMBER
	:: state[connOf(f)] == Leased ->
#else
	:: state[connOf(f)] == Leased && seq[connOf(f)] == seqOf(f) ->
#endif
		assert(host[connOf(f)] == h);
		if
		:: typeOf(f) == PUT ->
			moving[connOf(f)] = true;
			d_step { assert(applied[connOf(f)] < seqOf(f)); applied[connOf(f)] = seqOf(f); state[connOf(f)] = Idle };
			moving[connOf(f)] = false
		:: else -> enter(connOf(f), Ready)
		fi
	:: else
	fi
}

/* Inbox.Next until there are no more frames. now is what was given out, and is taken by the next call. */
inline obeyFrames(h) {
	now = in[h].start;
	do
	:: now < in[h].end ->
		f = in[h].buf[now];
		now++;
#ifdef TAKEN_BEFORE_OBEYED
		in[h].start = now;
#endif
		obey(h, f);
		in[h].start = now
	:: else -> break
	od;
	f = 0; now = 0
}

/* Inbox.Recv: makeRoom, one recvmmsg(2), arrived. */
inline receive(h) {
	if
	:: in[h].start == in[h].end -> d_step { in[h].start = 0; in[h].end = 0 }   /* one store */
	:: else
	fi;
	d_step { in[h].moved = 0; in[h].at = in[h].end };
	d_step {
		do
		:: len(up[h]) > 0 && in[h].end + in[h].moved < ROOM ->
			up[h] ? in[h].buf[in[h].end + in[h].moved];
			in[h].moved++
		:: else -> break
		od
	};
	arrived(h)
}

inline arrived(h) {
#ifdef SETTLED_BEFORE_TAKEN
	n = in[h].moved;
	in[h].moved = 0;
	in[h].end = in[h].end + n; n = 0
#else
	in[h].end = in[h].end + in[h].moved;
	in[h].moved = 0
#endif
}

/* Outbox.Last: the frame that was added last, if it has not been sent. */
#define says(h, f) (attached[h] && waiting(h) && out[h].last < out[h].end && out[h].buf[out[h].last] == f)

/* OutboxAt, InboxAt, restoreLinks, restoreTable: what a successor makes of the memory. It may die of it too. */
inline succeed() {
	h = 0;
	do
	:: h < HOSTS ->
		if
#ifndef FORGETFUL_SEND
		:: out[h].moved > 0 && out[h].at == out[h].sent -> progress(h)
#endif
		:: else -> out[h].moved = 0
		fi;
		if
		:: !waiting(h) -> reset(h)
		:: else
		fi;
		if
#ifndef FORGETFUL_RECEIVE
		:: in[h].moved > 0 && in[h].at == in[h].end -> arrived(h)
#endif
		:: else -> in[h].moved = 0
		fi;
		h++
	:: else -> break
	od;
	c = 0;
	do
	:: c < CONNECTIONS ->
		h = host[c];
		if
#ifndef UNSAID
		:: says(h, frame(LEASE, c, seq[c])) && state[c] == Ready -> state[c] = Leased
#endif
		:: else
		fi;
		moving[c] = false;
		if
		:: state[c] == Closing -> state[c] = Free
#ifndef FORGET_UNSAID
		:: says(h, frame(FORGET, c, 0)) && state[c] == Leased -> close(c, true)
#endif
		:: state[c] == Leased && !attached[h] -> orphan(c, true)
		:: else
		fi;
		c++
	:: else -> break
	od;
	c = 0; h = 0;
	do                                                /* resumeLinks */
	:: h < HOSTS -> obeyFrames(h); h++
	:: else -> break
	od;
	h = 0
}

/* What a turn of the loop may find to do. In which order it does it matters to nothing here. */
#define mayReceive(h) (attached[h] && len(up[h]) > 0)
#define mayHangUp(h) (attached[h] && dead[h] && len(up[h]) == 0)
#define mayFlush(h) (attached[h] && !dead[h] && waiting(h) && len(down[h]) < SOCKET)
#define mayLease(c, h) (state[c] == Ready && attached[h] && out[h].end < ROOM - 1)
#define mayRevoke(c) (state[c] == Leased && attached[host[c]] && revokes > 0 && out[host[c]].end < ROOM)

#define choices(h_) \
		:: mayReceive(h_) -> what = 1; h = h_ \
		:: mayHangUp(h_) -> what = 2; h = h_ \
		:: mayFlush(h_) -> what = 3; h = h_ \
		:: attached[h_] && !dead[h_] && cuts > 0 -> what = 7; h = h_; cuts--
#define chances(c_) \
		:: state[c_] == Idle && asked[c_] -> what = 4; c = c_ \
		:: mayLease(c_, 0) -> what = 5; c = c_; h = 0 \
		:: mayLease(c_, 1) -> what = 5; c = c_; h = 1 \
		:: mayRevoke(c_) -> what = 6; c = c_; revokes--

proctype Sidecar() {
	byte h, c, f, now, n, what;
again:
	{
		succeed();
		do
		:: atomic {
				if
				choices(0)
				choices(1)
				chances(0)
#if CONNECTIONS > 1
				chances(1)
#endif
				fi
			};
			if
			:: what == 1 -> receive(h); obeyFrames(h)
			:: what == 2 -> hangUp(h, true)
			:: what == 7 -> hangUp(h, false)
			:: what == 3 -> flush(h)
			:: what == 4 -> enter(c, Ready)
			:: what == 5 -> lease(c, h)
			:: what == 6 -> close(c, true)
			fi;
			d_step { what = 0; h = 0; c = 0 }
		od
	} unless { killed };
	d_step { killed = false; h = 0; c = 0; f = 0; now = 0; n = 0; what = 0 };
	goto again
}

#define its(c) its[h].lent[c]

#define uses(c) \
		:: d_step { its(c) != 0 && !begun[c] && !ended[c] -> begun[c] = true } \
		:: d_step { its(c) != 0 && (begun[c] || ended[c]) && (len(up[h]) < SOCKET || hungUp[h]) -> \
				if \
				:: ended[c] \
				:: else -> assert(asked[c]); asked[c] = false; begun[c] = false \
				fi; \
				say(frame(PUT, c, its(c))); \
				if \
				:: ECHOES > 0 -> its[h].before[c] = its(c) \
				:: else \
				fi; \
				its(c) = 0 \
			} \
		:: d_step { its(c) != 0 && !begun[c] && nacks > 0 && len(up[h]) < SOCKET && !hungUp[h] -> \
				nacks--; \
				say(frame(NACK, c, its(c))); \
				its(c) = 0 \
			} \
		:: d_step { echoes > 0 && its[h].before[c] != 0 && len(up[h]) < SOCKET && !hungUp[h] -> \
				echoes--; \
				say(frame(PUT, c, its[h].before[c])) \
			}

inline say(f_) {
	if
	:: hungUp[h]
	:: else -> up[h] ! f_
	fi
}

/* A lease is delivered once, and only to a host while no other believes that it has the connection. */
inline take(f) {
	if
	:: typeOf(f) == LEASE ->
		assert(its(connOf(f)) == 0);
		assert(delivered[connOf(f)] < seqOf(f));
		assert(ended[connOf(f)] || its[1 - h].lent[connOf(f)] == 0);
		delivered[connOf(f)] = seqOf(f);
		its(connOf(f)) = seqOf(f)
	:: typeOf(f) == FORGET -> its(connOf(f)) = 0
	:: else -> assert(false)
	fi
}

proctype Host(byte h) {
	byte f;
	{
		do
		:: d_step { len(down[h]) > 0 -> down[h] ? f; take(f); f = 0 }
		uses(0)
#if CONNECTIONS > 1
		uses(1)
#endif
		od
	} unless { dead[h] }
}

/* Clients, and what kills. */
#define mischief(h) \
	:: d_step { deaths > 0 && !dead[h] -> \
			deaths--; \
			dead[h] = true; \
			c = 0; \
			do \
			:: c < CONNECTIONS -> its[h].lent[c] = 0; c++ \
			:: else -> break \
			od; \
			do \
			:: len(down[h]) > 0 -> down[h] ? _ \
			:: else -> break \
			od; \
			c = 0 \
		}
#define client(c) :: d_step { requests > 0 && !asked[c] && !ended[c] -> requests--; asked[c] = true }

proctype World() {
	byte c;
	do
	:: d_step { kills > 0 && !killed -> kills--; killed = true }
	mischief(0)
	mischief(1)
	client(0)
#if CONNECTIONS > 1
	client(1)
#endif
	od
}

#define serves(h) (attached[h] && !dead[h])

/* When nothing moves any more, a connection is idle, or waits because nobody is there, or is with a host that knows. */
inline settled(c) {
	assert(!moving[c]);
	assert(state[c] != Closing);
	assert(state[c] != Idle || !asked[c]);
	assert(state[c] != Ready || !serves(0) && !serves(1));
	assert(state[c] != Leased || serves(host[c]) && its[host[c]].lent[c] == seq[c]);
	assert(ended[c] || state[c] != Free)
}

init {
	atomic {
		state[0] = Idle;
#if CONNECTIONS > 1
		state[1] = Idle;
#endif
		attached[0] = true;
		attached[1] = true;
		run Sidecar();
		run Host(0);
		run Host(1);
		run World()
	};
	timeout;
	d_step {
		settled(0);
#if CONNECTIONS > 1
		settled(1);
#endif
	}
}
