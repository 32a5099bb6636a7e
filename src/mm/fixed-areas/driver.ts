// Drivers as fixed areas see them: what one can do, and what it is asked.
//
//   register { name, abi: 1, caps, maxQuiesceMs, ops }
//
//   cap          the driver can                                                   ops that it needs
//   relinquish   give an area up, or go on at another address                     move or drop, resume
//   reacquire    take an area again that it gave up                               reacquire
//   quiesce      stop new DMA to one area and let what is under way end            quiesce
//   dmaFault     live with a DMA that faults for a moment: an IOMMU may switch      switchIova
//   hostRemap    be moved by its host, which changes what backs the guest's frame   -
//
//   relinquish, one area     ops in order                                          answers
//   phase 1                  prepare(move | drop | ask)                            yes, move, drop, or no: nothing has changed
//   phase 2                  quiesce, quiesce, ...                                 busy ... quiet: no DMA from here to resume
//                            move(to)  or  drop                                    done
//   the end, or the way back (move back, reacquire at the same place,) resume      done
//
// Ops are functions without a state of their own: what a driver remembers is machine state (machine-state.ts), so that a
// fork can be asked what would happen. Each may say no, with an errno, and then has changed nothing; a driver that throws
// has died, and so has one that answers 'dead': nobody asks it again, and as nobody knows what its device does, its areas
// stay, but for those that an IOMMU or a host can take away.
//
// Spec 9.E, registration. Hansen 2005: "we need to have APIs to require devices to give up and reacquire any dynamically
// allocated structures. If the device driver does not implement these APIs it is not compatible with memory hotplug."

import type { HolderId, NodeId } from '#base/units';
import type { Machine } from '../machine.ts';
import type { Extent } from '../pools/dma-extent.ts';
import type { ErrnoName } from '../refusal.ts';

/** The only version of this protocol. */
export const DRIVER_ABI = 1;

export const DRIVER_CAPS = ['relinquish', 'reacquire', 'quiesce', 'dmaFault', 'hostRemap'] as const;
export type DriverCap = (typeof DRIVER_CAPS)[number];

/** What to do with contents: carry them to another place, give them up, or whichever the driver likes better. */
export type RelinquishMode = 'move' | 'drop' | 'ask';

/** Names an area as the driver knows it. When the address that the driver knows changes, the old handle is stale. */
export type AreaHandle = { readonly id: number; readonly generation: number };

export type FixedArea = {
  readonly handle: AreaHandle;
  readonly driver: string;
  /** Frames, in the order of the buffer's bytes: page k of the area is frame k of these. Ascending. */
  readonly segments: readonly Extent[];
  readonly pages: number;
  /** In the driver's words: "descriptor ring". */
  readonly reason: string;
};

export type DriverNo = { readonly errno: ErrnoName; readonly why: string };

/** Died: nobody asks it again. */
export type Dead = 'dead';

export type DriverOps = {
  /** Would you? Reads only. Left out: yes. With mode 'ask' it may choose; 'yes' is then 'move'. */
  prepare?(m: Machine, area: FixedArea, mode: RelinquishMode): 'yes' | 'move' | 'drop' | DriverNo | Dead;
  /** No new DMA there; quiet once none is under way. Asked again until then, or until it is too late. */
  quiesce?(m: Machine, area: FixedArea, now: number): 'busy' | 'quiet' | DriverNo | Dead;
  /** It is quiet, and its contents lie at `to` now. Also the way back. */
  move?(m: Machine, area: FixedArea, to: FixedArea): 'done' | DriverNo | Dead;
  /** It is quiet: forget the address; what was in it is lost. */
  drop?(m: Machine, area: FixedArea): 'done' | DriverNo | Dead;
  /** An area again, instead of one that it gave up. What is in it is nobody's. DMA begins with resume. */
  reacquire?(m: Machine, area: FixedArea): 'done' | DriverNo | Dead;
  /** DMA may go on, where the area lies now. */
  resume?(m: Machine, area: FixedArea): 'done' | Dead;
  /** What the device sees at the same DMA address is `to` from here on: one entry of the IOMMU. It cannot fail. */
  switchIova?(m: Machine, area: FixedArea, to: FixedArea): void;
};

export type DriverSpec = {
  /** One of its kind: "nic0". */
  readonly name: string;
  readonly abi: number;
  readonly caps: readonly DriverCap[];
  /** It promises to be quiet by then. */
  readonly maxQuiesceMs: number;
  readonly ops: DriverOps;
  /** Where its device is: areas come from there if they can. */
  readonly node?: NodeId;
  /** Frames that it had before it registered, as this holder: each allocation becomes an area. */
  readonly holder?: HolderId;
};

/** What is wrong with a registration; undefined: nothing. */
export function wrongWith(spec: DriverSpec): string | undefined {
  const { name, abi, caps, maxQuiesceMs, ops } = spec;
  if (!/^[!-~]+$/.test(name)) return 'a driver has a name, one printable word';
  if (abi !== DRIVER_ABI) return `${name}: abi ${abi} is not ${DRIVER_ABI}`;
  const unknown = caps.find((c) => !DRIVER_CAPS.includes(c));
  if (unknown !== undefined) return `${name}: there is no cap ${unknown}`;
  if (!Number.isSafeInteger(maxQuiesceMs) || maxQuiesceMs < 0)
    return `${name}: maxQuiesceMs ${maxQuiesceMs} is no time`;
  const has = (c: DriverCap): boolean => caps.includes(c);
  const lacks = (op: keyof DriverOps): boolean => ops[op] === undefined;
  if (has('relinquish')) {
    // Who gives frames up must be sure that no DMA goes there.
    if (!has('quiesce') && !has('dmaFault')) return `${name}: relinquish wants quiesce or dmaFault`;
    if (has('quiesce') && lacks('move') && lacks('drop')) return `${name}: relinquish wants the op move or drop`;
    if (has('quiesce') && lacks('resume')) return `${name}: relinquish wants the op resume`;
  }
  if (has('quiesce') && lacks('quiesce')) return `${name}: the cap quiesce wants the op`;
  if (has('reacquire') && lacks('reacquire')) return `${name}: the cap reacquire wants the op`;
  if (has('reacquire') && lacks('resume')) return `${name}: the cap reacquire wants the op resume`;
  if (has('dmaFault') && lacks('switchIova')) return `${name}: the cap dmaFault wants the op switchIova`;
  return undefined;
}
