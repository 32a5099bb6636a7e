// Refusals: why the engine said no, as a value. A closed reason, the errno that Linux would give, and the evidence.
//
//   reason           errno    what it means                                              source
//   not-online       EINVAL   offline of a block that is offline already                 spec 1.10
//   not-offline      EINVAL   online of a block that is online, or going offline         spec 1.10
//   no-such-block    ENOENT   there is no such memory block
//   hole             EINVAL   the block is not RAM throughout: "memory holes"            spec 3.1 step 1
//   multizone        EINVAL   the block lies in more than one zone                       spec 3.1 step 1
//   unmovable        EBUSY    isolation found a page that cannot move                    spec 3.2
//   notifier         (its)    a listener objected                                        spec 3.3
//   stuck            EINTR    pages that do not move (pinned, or kernel pages in Movable): Linux retries for ever and
//                             only a signal ends it; the engine stops at its bound       spec 3.1 step 5
//   interrupted      EINTR    the caller gave up, as a signal does                       spec 3.1 step 5
//   no-target        EINTR    no free memory to migrate to: Linux retries for ever too   spec 3.1 step 5
//   no-memory        ENOMEM   no free frames for the request
//   poisoned         EHWPOISON  online of a block with a poisoned frame                  spec 1.10
//   busy             EBUSY    another offline of the block is under way
//   unaligned        EINVAL   a range to add or remove is not whole memory blocks          spec 1.13
//   out-of-range     E2BIG    it lies beyond what the machine can address                  spec 1.13
//   exists           EEXIST   its addresses are taken, or memory is there already          spec 1.13
//   bad-request      EINVAL   no such node, group or name of a resource                    spec 1.13
//   still-online     EBUSY    removal of memory that is not offline throughout             spec 1.13
//   no-such-memory   ENOENT   removal of memory that is not there
//   bad-argument     EINVAL   a range that is none, an address that is no number, unsupported gfp bits   spec 3.4, 3.5
//   in-use           EBUSY    pages of a range did not move within five tries               spec 3.4
//   no-huge-page     ENOSPC   no huge page is free that is not reserved
//   dissolve         EBUSY    "failure to dissolve huge pages": the pool has none to spare  spec 3.1 step 6
//   not-permitted    EPERM    without CAP_SYS_ADMIN                                         spec 3.5
//   disabled         EOPNOTSUPP  vm.enable_soft_offline=0; unpoison after a real hardware error   spec 3.5
//   outside          ENXIO    no memory at that address                                     spec 3.5
//   section-offline  EIO      it is memory, but not online                                  spec 3.5
//   unhandlable      EIO      soft offline of a page that only the kernel knows how to move spec 3.5
//   not-poisoned     EBUSY    unpoison of a page without a hardware error, or still in use  spec 3.5
//   failure          EBUSY    a memory failure that was ignored, or could not be contained  spec 3.5
//   no-such-pool     ENOENT   no pool has this name                                       spec 9.A
//   no-such-lease    ENOENT   no lease has this number                                    spec 9.A, semantics 4
//   pool-exists      EEXIST   a pool has this name already                                spec 9.A
//   permission       EPERM    the principal may not do this to the pool                   spec 9.A
//   not-owner        EACCES   only the owner and root change a pool's attributes          spec 9.A
//   guarantee        ENOSPC   what pools were promised leaves no room for this            spec 9.A, semantics 5
//   label            EXDEV    the pool's rule does not allow frames of this node or zone  spec 9.A
//   pool-busy        EBUSY    the pool has pages that are used, leased or isolated        spec 9.A
//   no-window        ENOSPC   no window of memory satisfies the DMA rule                  spec 9.B
//   revoke-timeout   ETIMEDOUT  memory was not given up before the deadline               spec 9.A, semantics 9
//   hard-pinned      EBUSY    firmware's, or other memory that never moves               spec 9.C, class X
//   untyped          EOPNOTSUPP  nobody knows what the page is for: it refuses by default  spec 9.C
//   raced            EAGAIN   the page changed while it was moved                         spec 9.C
//   fault            EIO      hardware or a CPU did not answer in the middle of it; all is as it was
//   relinquish       (its)    a driver refused to give up a fixed area                    spec 9.E
//   deadline         ETIMEDOUT  a driver did not give up a fixed area in time             spec 9.E
//   incompatible     ENXIO    a driver that gives nothing up, and no area that is kept for such   spec 9.E
//   no-relinquish    EOPNOTSUPP  the driver cannot give fixed areas up                    spec 9.E
//   nested           EALREADY  the same range is being relinquished                       spec 9.E
//   stale-handle     ESTALE   the fixed area was given up or moved since                  spec 9.E
//   contract         ENOMEM   an area's contract forbids it                               spec 9.F1
//   pinned-area      EFAULT   a pin that would stay, in an area whose contract forbids it   spec 9.F1
//   not-backed       ENOSPC   the part of added memory that is backed has no room for its struct pages   spec 9.F6
//   hosts            EBUSY    struct pages of other memory lie there, and nobody moves them   spec 9.D, D2
//
// The errno follows from the reason, but for a listener, which brings its own.

import { ERRNO, type ErrnoName } from '#base/errno';
import type { HolderId, Pfn } from '#base/units';
import type { PageClass } from './page-class.ts';

export { ERRNO, type ErrnoName };

/** Why one run of frames stands in the way. */
export type BlockerCause =
  /** A class that cannot move (spec 3.2). */
  | 'unmovable'
  /** Reserved: fatal even in ZONE_MOVABLE. */
  | 'reserved'
  /** A CMA pageblock and the caller is no CMA allocation. */
  | 'cma'
  /** An extra reference keeps a movable page where it is. */
  | 'pinned'
  /** Passed isolation because it sits in ZONE_MOVABLE, but cannot move. */
  | 'kernel-in-movable'
  /** It could move, but there was nowhere to go. */
  | 'no-target'
  /** A hardware error was found in it. */
  | 'poisoned'
  /** Storage is reading it. */
  | 'writeback'
  /** Firmware's, or other memory that never moves, whatever helps. */
  | 'hard-pinned'
  /** Nobody knows what it is for. */
  | 'untyped'
  /** Its driver does not give it up: cannot, refused, or was too late. */
  | 'relinquish'
  /** A large page, and the area's policy is to leave those alone (spec 9.F5). */
  | 'large-page'
  /** Struct pages of other memory. */
  | 'hosts'
  /** Something failed in the middle; all is as it was. */
  | 'fault'
  /** Not RAM, or not known to the kernel. */
  | 'hole';

/** Evidence: [startPfn, endPfn) of one holder. */
export type Blocker = {
  readonly startPfn: Pfn;
  readonly endPfn: Pfn;
  readonly cause: BlockerCause;
  readonly class: PageClass | 'none';
  /** -1 for a hole. */
  readonly holder: HolderId | -1;
  readonly name: string;
};

export type RefusalReason =
  | 'not-online'
  | 'not-offline'
  | 'no-such-block'
  | 'hole'
  | 'multizone'
  | 'unmovable'
  | 'notifier'
  | 'stuck'
  | 'interrupted'
  | 'no-target'
  | 'no-memory'
  | 'poisoned'
  | 'busy'
  | 'unaligned'
  | 'out-of-range'
  | 'exists'
  | 'bad-request'
  | 'still-online'
  | 'no-such-memory'
  | 'bad-argument'
  | 'in-use'
  | 'no-huge-page'
  | 'dissolve'
  | 'not-permitted'
  | 'disabled'
  | 'outside'
  | 'section-offline'
  | 'unhandlable'
  | 'not-poisoned'
  | 'failure'
  | 'no-such-pool'
  | 'no-such-lease'
  | 'pool-exists'
  | 'permission'
  | 'not-owner'
  | 'guarantee'
  | 'label'
  | 'pool-busy'
  | 'no-window'
  | 'revoke-timeout'
  | 'hard-pinned'
  | 'untyped'
  | 'raced'
  | 'fault'
  | 'relinquish'
  | 'deadline'
  | 'incompatible'
  | 'no-relinquish'
  | 'nested'
  | 'stale-handle'
  | 'contract'
  | 'pinned-area'
  | 'not-backed'
  | 'hosts';

export type Refusal = {
  readonly reason: RefusalReason;
  /** A name of ERRNO; a listener may bring its own. */
  readonly errno: ErrnoName;
  /** One sentence for a person. */
  readonly message: string;
  readonly blockers: readonly Blocker[];
};

/** The table at the top of this file, without the column of words. `notifier` is the default of a listener. */
export const ERRNO_OF: Readonly<Record<RefusalReason, ErrnoName>> = Object.freeze({
  'not-online': 'EINVAL',
  'not-offline': 'EINVAL',
  'no-such-block': 'ENOENT',
  hole: 'EINVAL',
  multizone: 'EINVAL',
  unmovable: 'EBUSY',
  notifier: 'EBUSY',
  stuck: 'EINTR',
  interrupted: 'EINTR',
  'no-target': 'EINTR',
  'no-memory': 'ENOMEM',
  poisoned: 'EHWPOISON',
  busy: 'EBUSY',
  unaligned: 'EINVAL',
  'out-of-range': 'E2BIG',
  exists: 'EEXIST',
  'bad-request': 'EINVAL',
  'still-online': 'EBUSY',
  'no-such-memory': 'ENOENT',
  'bad-argument': 'EINVAL',
  'in-use': 'EBUSY',
  'no-huge-page': 'ENOSPC',
  dissolve: 'EBUSY',
  'not-permitted': 'EPERM',
  disabled: 'EOPNOTSUPP',
  outside: 'ENXIO',
  'section-offline': 'EIO',
  unhandlable: 'EIO',
  'not-poisoned': 'EBUSY',
  failure: 'EBUSY',
  'no-such-pool': 'ENOENT',
  'no-such-lease': 'ENOENT',
  'pool-exists': 'EEXIST',
  permission: 'EPERM',
  'not-owner': 'EACCES',
  guarantee: 'ENOSPC',
  label: 'EXDEV',
  'pool-busy': 'EBUSY',
  'no-window': 'ENOSPC',
  'revoke-timeout': 'ETIMEDOUT',
  'hard-pinned': 'EBUSY',
  untyped: 'EOPNOTSUPP',
  raced: 'EAGAIN',
  fault: 'EIO',
  relinquish: 'EBUSY',
  deadline: 'ETIMEDOUT',
  incompatible: 'ENXIO',
  'no-relinquish': 'EOPNOTSUPP',
  nested: 'EALREADY',
  'stale-handle': 'ESTALE',
  contract: 'ENOMEM',
  'pinned-area': 'EFAULT',
  'not-backed': 'ENOSPC',
  hosts: 'EBUSY',
});

/** A refusal with the errno of its reason. */
export const refusal = (reason: RefusalReason, message: string, blockers: readonly Blocker[] = []): Refusal => ({
  reason,
  errno: ERRNO_OF[reason],
  message,
  blockers,
});

/** Frames that the evidence names. */
export const framesIn = (blockers: readonly Blocker[]): number =>
  blockers.reduce((n, b) => n + (b.endPfn - b.startPfn), 0);
