// Lock: the port that keeps two executions from acting on one host at a time.
//
// A write of `offline` may take longer than any lease and cannot be taken back, so that a second executor that merely
// waited for a lease to expire would meet the first one's work half done. Therefore a lock has an owner that is alive or
// dead, not an age: src/hosts/linux/lock-file.ts names a process, and takes over only from one that is gone.

import type { Result } from '#base/result';
import type { HostFailure } from './host.ts';

export interface Lock {
  /** @returns `refused` while another execution that is alive has it, with its name in the sentence */
  acquire(): Promise<Result<Release, HostFailure>>;
}

/** Gives the lock back; does nothing the second time. */
export type Release = () => Promise<void>;
