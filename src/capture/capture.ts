// Capture: what one machine's kernel said about its memory, untouched. Every command starts from one of these.
//
// Sources: a live root ("/"), an unpacked directory (--sysroot), a bundle file (*.dimmer) and a lab snapshot folder
// all yield this one shape. Nothing is smoothed: a file that could not be read is a problem with its reason, and a
// torn read (the machine changed while it was read) is reported, not repaired.

import type { KernTree } from '#kernfs/source';
import type { PageRuns } from './page-runs.ts';

export type CaptureOrigin = {
  /** `guest`: read through the guest agent of a virtual machine that runs. */
  readonly kind: 'live' | 'directory' | 'lab' | 'bundle' | 'guest';
  /** What the user named: a path, "this machine", "qemu:SOCKET". */
  readonly name: string;
  /** ISO 8601, where known. */
  readonly takenAt?: string;
};

/** Something that the capture lacks or doubts; `lost` says what answers get worse, `remedy` how to get it. */
export type CaptureProblem = {
  readonly file: string;
  readonly kind: 'absent' | 'denied' | 'hidden' | 'torn' | 'truncated' | 'corrupt';
  readonly detail: string;
  readonly lost: string;
  readonly remedy: string;
};

export type Capture = {
  readonly origin: CaptureOrigin;
  readonly tree: KernTree;
  readonly kpageflags?: PageRuns;
  readonly kpagecount?: PageRuns;
  readonly kpagecgroup?: PageRuns;
  /** cgroup inode -> path below the cgroup root, to name what kpagecgroup says. */
  readonly cgroups: ReadonlyMap<number, string>;
  readonly problems: readonly CaptureProblem[];
  /** Pools to be made on its twin, as `pools:` of a machine file. Not the kernel's: `dimmer pool` wrote it into a copy. */
  readonly pools?: string;
};
