/*
 * Who owns the connections: a sidecar process, its keeper, and the new process of an upgrade (keeper/, sidecar/upgrade.go, sidecar/succession.go).
 *
 * A process is a number, which execve(2) does not change: a keeper that succeeds keeps its own. Faults are given by a budget: one process is killed
 * at any step, or is so slow that whoever waits for it gives up. Flags turn single steps into wrong ones (see check).
 */

#define PROCESSES 10
#define NONE 255

byte owner;               /* the word in the memory */
byte offers;              /* numbers that were ever offered */
bool dead[PROCESSES];     /* killed, or ended */
bool acting[PROCESSES];   /* changes the memory or answers anybody */
bool ready[PROCESSES];    /* the words of an upgrade, by the new process */
bool go[PROCESSES];
bool serves[PROCESSES];
byte offered[PROCESSES];  /* what owner will say if the new process is to go on; NONE: it was not offered anything */
byte keeper[PROCESSES] = NONE;
byte processes;
bool started;             /* the first process serves */
byte faults = 1;
byte upgrades = 2;

inline begin(p) { assert(processes < PROCESSES); p = processes; offered[p] = NONE; processes++ }

inline end(p) { d_step { dead[p] = true; acting[p] = false } }

/* Only one may act. */
inline act(p) {
	d_step {
		i = 0;
		do
		:: i < PROCESSES -> assert(!acting[i] || i == p); i++
		:: else -> break
		od;
		i = 0; acting[p] = true
	}
}

/* follow, in keeper/fork_linux.go */
proctype Keeper(byte me; byte parent; byte own) {
	{
		dead[parent];
		if
		:: owner == own -> run Sidecar(me, NONE)
		:: else -> end(me)
		fi
	} unless { dead[me] }
}

/* renew, in keeper/guard_linux.go */
proctype Guard(byte me; byte own) {
	byte k;
	{
		do
		:: dead[keeper[me]] ->
			if
			:: owner != own -> break
			:: else ->
				atomic { begin(k); run Keeper(k, me, own); keeper[me] = k; k = 0 }
			fi
		od
	} unless { dead[me] }
}

/* NewGuard */
inline guard(number) { atomic { own = number; begin(k); run Keeper(k, me, own); keeper[me] = k; k = 0; run Guard(me, own) } }

/* Each life of a process: the first, an heir's after a death (offered: NONE), or a new process's. */
proctype Sidecar(byte me; byte from) {
	byte own, new, k, i;
	{
		own = owner;
		if
		:: offered[me] != NONE ->                 /* acceptOffer */
			ready[me] = true;
			if
			:: go[me]
			:: dead[from]                     /* the predecessor: its end of the socket is closed */
			:: atomic { faults > 0 -> faults-- }
			fi;
			if
#ifdef TRUST_THE_WORD
			:: !go[me] -> end(me); goto ended
#else
			:: owner != offered[me] -> end(me); goto ended
#endif
			:: else
			fi;
			act(me);                          /* Succeed; the predecessor is the keeper meanwhile */
#ifdef KEEPER_WITHOUT_STORE
			guard(offered[me])
#else
			guard(offered[me] + 1);
			owner = own                       /* the keeper stands: from now on the predecessor is not needed */
#endif
		:: else ->
			guard(own);
			act(me)
		fi;
		started = true;
		serves[me] = true;
		do
		:: upgrades > 0 ->                        /* replace */
			atomic {
				upgrades--;
				acting[me] = false;       /* Freeze */
				begin(new);
#ifdef COUNTED_OFFERS
				offered[new] = own + 1;
#else
				offers = offers + 2; offered[new] = offers;
#endif
				run Sidecar(new, me)      /* Spawn */
			};
			if
			:: ready[new]
			:: dead[new] && !ready[new]
			:: atomic { faults > 0 -> faults-- }
			fi;
			if
			:: !ready[new] ->
				end(new);
				act(me); new = 0;
				goto refused
			:: else
			fi;
#ifndef OWNER_AFTER_SERVES
			owner = offered[new];
#endif
			go[new] = true;
			if
			:: serves[new]
			:: dead[new] && !serves[new] -> goto failed
			:: atomic { faults > 0 -> faults-- }
failed:
#ifdef TAKE_BACK_FIRST
				owner = own;
#endif
				end(new);
#ifdef TAKE_BACK_BLINDLY
				owner = own
#else
				atomic {                  /* compare and swap */
					if
					:: owner == offered[new] -> owner = own
					:: else
					fi
				}
#endif
			fi;
#ifdef OWNER_AFTER_SERVES
			owner = offered[new];
#endif
			end(me);                          /* leave, or startOver */
			break
refused:
		od;
ended:
	} unless { dead[me] }
}

proctype Killer() {
	byte p;
	atomic {
		started && faults > 0;
		do
		:: p + 1 < processes -> p++
		:: break
		od;
		if
		:: dead[p]
		:: else -> faults--; end(p)
		fi;
		p = 0
	}
}

init {
	byte i, alive;
	atomic { begin(i); run Sidecar(0, NONE); run Killer() };
	timeout;                                          /* nothing moves any more */
	d_step {
		i = 0;
		do
		:: i < PROCESSES ->
			if
			:: acting[i] -> alive++
			:: else
			fi;
			i++
		:: else -> break
		od;
		assert(alive == 1)
	}
}
