// Plan: what is wanted, and the steps that get there, as data. A planner writes it, a person reads it, an executor does it.
//
//   Goal ──planner──> Plan ──JSON──> executor (src/control)
//
//   Plan
//   ├── assumes: the state lines it was made for, and their hash: on another state it is stale and refused
//   ├── unit "dimm:dimm1"                       all or nothing: on failure its steps are undone, last one first
//   │   ├── step 1  offline block 34            expect: online, Movable      effect: offline      undo: online_movable
//   │   ├── step 2  offline block 32            ...
//   │   └── step 3  remove dimm1                expect: every block offline  effect: it is gone   undo: none, it is last
//   ├── unit "dimm:dimm2" ...                   finished units stay, whatever becomes of later ones (partial success)
//   └── rejected: the other candidates, each with the reason
//
// Invariants (checkPlan): step numbers ascend from 1; in a unit only the last step may lack an undo; conditions name blocks
// and devices by identity, never by rank. Actions are a closed list: a plan file cannot make dimmer write anywhere else.

import type { AutoOnlineBlocks } from '#kernfs/memory-blocks';
import type { Figure } from '#twin/provenance';
import type { Observation } from './observation.ts';

export type Goal =
  /** `target` as parseTarget of the query layer reads it, or dimm:ID with the hypervisor's id, or "size:4G". */
  | { readonly verb: 'remove'; readonly target: string; readonly bytes?: number }
  | { readonly verb: 'add'; readonly bytes: number; readonly node: number }
  /** To this much memory in all, as the guest would see it: boot memory and what is plugged, less the balloon. */
  | { readonly verb: 'resize'; readonly bytes: number }
  /** So many free chunks of 2^order frames; `hugePages` puts them into the pool at the end. */
  | { readonly verb: 'contiguous'; readonly chunks: number; readonly order: number; readonly hugePages: boolean };

/** Where a block goes when it comes online: the word that is written to its state. */
export type OnlineZone = 'movable' | 'kernel' | 'default';

export type Action =
  | { readonly do: 'offline-block'; readonly block: number }
  | { readonly do: 'online-block'; readonly block: number; readonly zone: OnlineZone }
  /** object-add, device_add; `addr` is chosen by the planner, so that the plan knows its blocks. */
  | {
      readonly do: 'add-dimm';
      readonly id: string;
      readonly memdev: string;
      readonly bytes: number;
      readonly node: number;
      readonly addr: number;
    }
  /** device_del, DEVICE_DELETED, object-del. Refused by the host while a block of it is not offline. */
  | { readonly do: 'remove-dimm'; readonly id: string; readonly memdev: string }
  | { readonly do: 'resize-virtio-mem'; readonly id: string; readonly bytes: number }
  /** What the balloon leaves of the boot memory, bytes. */
  | { readonly do: 'balloon'; readonly bytes: number }
  /** 1 page cache, 2 reclaimable slab, 3 both; after a sync. */
  | { readonly do: 'drop-caches'; readonly what: 1 | 2 | 3 }
  | { readonly do: 'compact'; readonly node?: number }
  | { readonly do: 'set-hugepages'; readonly node?: number; readonly pageBytes: number; readonly pages: number }
  | { readonly do: 'auto-online'; readonly word: AutoOnlineBlocks };

/** Something that an observation shows, or does not. */
export type Condition =
  /** `zone` as valid_zones of an online block names it: "Movable", "Normal", "DMA32". */
  | { readonly is: 'block'; readonly block: number; readonly state: 'online' | 'offline'; readonly zone?: string }
  /** All blocks from first to last are there, or none of them. */
  | { readonly is: 'blocks'; readonly first: number; readonly last: number; readonly present: boolean }
  | { readonly is: 'dimm'; readonly id: string; readonly present: boolean }
  | { readonly is: 'virtio-mem'; readonly id: string; readonly requested?: number; readonly size?: number }
  | { readonly is: 'balloon'; readonly bytes: number }
  /** Free chunks of this order and above, counted in chunks of this order, of the whole machine. */
  | { readonly is: 'free-chunks'; readonly order: number; readonly atLeast: number }
  | { readonly is: 'hugepages'; readonly node?: number; readonly pageBytes: number; readonly atLeast: number }
  | { readonly is: 'auto-online'; readonly word: AutoOnlineBlocks };

export type Step = {
  /** From 1 on, through all units. */
  readonly n: number;
  /** "offline block 34 (0x110000000, Movable, node 1)". */
  readonly title: string;
  readonly action: Action;
  /** Holds before; a step whose effect holds already is done without acting. */
  readonly expect: readonly Condition[];
  /** Holds after: this, observed, is what "done" means. */
  readonly effect: readonly Condition[];
  /** It is no failure if the effect does not come about in full (compaction, dropping caches). */
  readonly bestEffort?: boolean;
  readonly predicts: {
    readonly pagesToMove?: Figure;
    readonly bytesFreed?: Figure;
    readonly ms: Figure;
  };
  /** One sentence: what may go wrong here; absent when nothing is known. */
  readonly risk?: string;
  /** Actions that put the state before this step back, in order; absent: it cannot be undone, and is last of its unit. */
  readonly undo?: readonly Action[];
  /** For acting and confirming together. */
  readonly deadlineMs: number;
};

export type Unit = {
  /** "dimm:dimm1", "block:34", "virtio-mem:vm0". */
  readonly name: string;
  /** What is reached when it is done: "1 GiB less". */
  readonly reaches: string;
  readonly bytes: number;
  readonly steps: readonly Step[];
};

export type Rejected = { readonly name: string; readonly reason: string };

export const PLAN_VERSION = 1;

export type Plan = {
  readonly dimmer: 'plan';
  readonly version: typeof PLAN_VERSION;
  readonly goal: Goal;
  /** What was planned on: "qemu", "linux", "capture"; and its name, for people. */
  readonly host: { readonly kind: string; readonly name: string; readonly kernel: string };
  readonly assumes: { readonly hash: string; readonly lines: readonly string[] };
  /** True when doing all units reaches the goal. */
  readonly feasible: boolean;
  /** One sentence: what is reached, or why not all of it can be. */
  readonly summary: string;
  /** Sentences a person should read before: one-way doors, ratios, budgets. */
  readonly warnings: readonly string[];
  readonly units: readonly Unit[];
  readonly rejected: readonly Rejected[];
};

/** @returns undefined where the observation cannot tell (no hypervisor is asked, no such file) */
export function holds(c: Condition, o: Observation): boolean | undefined {
  switch (c.is) {
    case 'block': {
      const b = o.blocks.find((x) => x.id === c.block);
      if (b === undefined || b.state !== c.state) return false;
      return c.zone === undefined || c.state === 'offline' || b.zone === c.zone;
    }
    case 'blocks': {
      const there = o.blocks.filter((b) => c.first <= b.id && b.id <= c.last).length;
      return there === (c.present ? c.last - c.first + 1 : 0);
    }
    case 'dimm':
      return o.hypervisor === undefined ? undefined : o.hypervisor.dimms.some((d) => d.id === c.id) === c.present;
    case 'virtio-mem': {
      if (o.hypervisor === undefined) return undefined;
      const v = o.hypervisor.virtioMem.find((x) => x.id === c.id);
      if (v === undefined) return false;
      return (c.requested === undefined || v.requested === c.requested) && (c.size === undefined || v.size === c.size);
    }
    case 'balloon':
      return o.hypervisor?.balloonBytes === undefined ? undefined : o.hypervisor.balloonBytes === c.bytes;
    case 'free-chunks':
      return freeChunks(o, c.order) >= c.atLeast;
    case 'hugepages': {
      const pools = o.hugePages.filter((p) => p.bytes === c.pageBytes && (c.node === undefined || p.node === c.node));
      return pools.length === 0 ? undefined : pools.reduce((n, p) => n + p.total, 0) >= c.atLeast;
    }
    case 'auto-online':
      return o.autoOnline === undefined ? undefined : o.autoOnline === c.word;
  }
}

/** Free chunks of 2^order frames that the buddy lists hold, larger ones counted as what they split into. */
export const freeChunks = (o: Observation, order: number): number =>
  o.free.reduce(
    (sum, z) => sum + z.nrFree.reduce((n, count, k) => (k < order ? n : n + count * 2 ** (k - order)), 0),
    0,
  );

/** "block 34 is offline", for people. */
export function sayCondition(c: Condition): string {
  switch (c.is) {
    case 'block':
      return `block ${c.block} is ${c.state}${c.zone === undefined ? '' : ` in ${c.zone}`}`;
    case 'blocks':
      return `blocks ${c.first}-${c.last} are ${c.present ? 'there' : 'gone'}`;
    case 'dimm':
      return `DIMM ${c.id} is ${c.present ? 'plugged' : 'gone'}`;
    case 'virtio-mem': {
      const parts = [
        ...(c.requested === undefined ? [] : [`is asked for ${c.requested} bytes`]),
        ...(c.size === undefined ? [] : [`has ${c.size} bytes plugged`]),
      ];
      return `virtio-mem device ${c.id} ${parts.join(' and ')}`;
    }
    case 'balloon':
      return `the balloon leaves ${c.bytes} bytes`;
    case 'free-chunks':
      return `${c.atLeast} chunks of order ${c.order} are free`;
    case 'hugepages':
      return `${c.atLeast} huge pages of ${c.pageBytes} bytes are in the pool${c.node === undefined ? '' : ` of node ${c.node}`}`;
    case 'auto-online':
      return `auto_online_blocks is ${c.word}`;
  }
}

/** "offline block 34". */
export function sayAction(a: Action): string {
  switch (a.do) {
    case 'offline-block':
      return `offline block ${a.block}`;
    case 'online-block':
      return `online block ${a.block}${a.zone === 'default' ? '' : ` (${a.zone})`}`;
    case 'add-dimm':
      return `add DIMM ${a.id} of ${a.bytes} bytes on node ${a.node}`;
    case 'remove-dimm':
      return `remove DIMM ${a.id}`;
    case 'resize-virtio-mem':
      return `ask virtio-mem device ${a.id} for ${a.bytes} bytes`;
    case 'balloon':
      return `set the balloon to ${a.bytes} bytes`;
    case 'drop-caches':
      return `drop caches (${a.what})`;
    case 'compact':
      return a.node === undefined ? 'compact all memory' : `compact node ${a.node}`;
    case 'set-hugepages':
      return `put ${a.pages} huge pages of ${a.pageBytes} bytes into the pool${a.node === undefined ? '' : ` of node ${a.node}`}`;
    case 'auto-online':
      return `set auto_online_blocks to ${a.word}`;
  }
}
