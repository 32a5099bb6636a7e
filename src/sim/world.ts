// A world: one small machine, who uses it, what is under way, and the chance that drives it. All of it from one seed.
//
//   frames    0 ── boot memory, 3 blocks ── │ 4 GiB: 2 boot blocks │ slots 0..5, a DIMM of 1 or 2 blocks each, or empty
//   node      0                              0                       0 or 1, by slot
//
//   under way     one hotplug work at a time (the lock, hotplug-lock.ts), stepped between anything else
//                 moves in two steps, up to eight; one compaction; direct compaction in half of the worlds
//   users         holders of each class; devices that write by DMA; pins and writeback come and go
//
// Each world is another kind of machine: kernel, placement, compat, contents, memmap settings and weights of operations are
// drawn from the seed (swarm testing: some operations never happen in some worlds). Rules: docs/spec/sim.md.

import { Prng } from '#base/prng';
import { type HolderId, type NodeId, toNodeId, toPfn } from '#base/units';
import type { CompactWork } from '#mm/compaction/compact-zone';
import { installCompaction } from '#mm/compaction/direct';
import type { DimmWork } from '#mm/dimm-offline';
import type { Evictor } from '#mm/evictor';
import { addDevice, type DeviceManner, DmaMonitor, deviceClock } from '#mm/fixed-areas/device-model';
import { driversEvictor } from '#mm/fixed-areas/evictor';
import type { AreaClock } from '#mm/fixed-areas/relinquish';
import {
  KERNEL_NAMES,
  Machine,
  type MemoryRange,
  type OfflineWork,
  PAGE_SIZE,
  PAGES_PER_SECTION,
  type PageClass,
} from '#mm/index';
import { remapEvictor } from '#mm/kremap/evictor';
import { memmapEvictor } from '#mm/memmap-evictor';
import type { Move } from '#mm/migrate';
import { Faults } from './faults.ts';
import { Ledger } from './ledger.ts';

const S = PAGES_PER_SECTION;
const FOUR_GIB = (4 * 2 ** 30) / PAGE_SIZE;
const BOOT_LOW = 3;
const BOOT_HIGH = 2;
export const SLOTS = 6;
const SLOT_BLOCKS = 2;

/** Who uses memory, and how likely. */
const USERS: readonly { readonly class: PageClass; readonly weight: number }[] = [
  { class: 'anonymous', weight: 8 },
  { class: 'file', weight: 8 },
  { class: 'shmem', weight: 2 },
  { class: 'slab', weight: 4 },
  { class: 'slab-reclaimable', weight: 2 },
  { class: 'pagetable', weight: 2 },
  { class: 'stack', weight: 1 },
  { class: 'vmalloc', weight: 2 },
  { class: 'balloon', weight: 1 },
  { class: 'movable-ops', weight: 1 },
];

/** Hot-pluggable memory: a range that holds a DIMM or nothing. */
export type Slot = { readonly range: MemoryRange; readonly node: NodeId };

export class World {
  readonly seed: number;
  readonly prng: Prng;
  readonly faults: Faults;
  readonly m: Machine;
  readonly ledger: Ledger;
  readonly monitor = new DmaMonitor();
  readonly users: readonly { readonly id: HolderId; readonly weight: number }[];
  readonly slots: readonly Slot[];
  readonly devices: readonly string[];
  readonly evictors: readonly Evictor[];
  /** The devices' time: they go on writing while somebody waits. */
  readonly clock: AreaClock;
  /** The one hotplug work under way: of a block, or of a whole DIMM. */
  work: OfflineWork | DimmWork | undefined;
  /** Its name, and the frames that it empties. */
  workOn: { readonly name: string; readonly range: MemoryRange } | undefined;
  readonly moves: Move[] = [];
  compaction: CompactWork | undefined;
  /** Numbers that were written into frames so far. */
  stamps = 0;
  /** How much of the memory operations let be used. */
  readonly hunger: number;

  constructor(seed: number, faults: boolean) {
    this.seed = seed;
    const prng = new Prng(seed);
    this.prng = prng;
    this.faults = new Faults(new Prng(seed ^ 0x5bd1e995), faults);
    this.m = boot(prng);
    this.m.faultAt = (point) => this.faults.at(point);
    if (prng.chance(0.5)) installCompaction(this.m);
    this.hunger = prng.pick([0.5, 0.7, 0.9, 1]);
    this.slots = Array.from({ length: SLOTS }, (_, k) => {
      const start = FOUR_GIB + (BOOT_HIGH + k * SLOT_BLOCKS) * S;
      const blocks = 1 + prng.below(SLOT_BLOCKS);
      return { range: { start: toPfn(start), end: toPfn(start + blocks * S) }, node: toNodeId(k % 2) };
    });
    this.users = USERS.map((u) => ({
      id: this.m.addHolder({ class: u.class, name: u.class, ...(prng.chance(0.3) ? { mapped: false } : {}) }),
      weight: u.weight,
    }));
    this.devices = this.#plugDevices();
    this.clock = deviceClock(this.monitor);
    const guests = prng.pick(['online', 'all'] as const);
    this.evictors = [memmapEvictor({ guests }), driversEvictor({ deadlineMs: 200, clock: this.clock }), remapEvictor()];
    this.ledger = new Ledger(this.m);
    for (const u of this.users) this.ledger.claim(u.id);
  }

  #plugDevices(): string[] {
    const manners: readonly DeviceManner[] = ['good', 'good', 'good', 'refuses', 'changes-mind', 'hangs'];
    return Array.from({ length: 4 }, (_, k) => {
      const name = `dev${k}`;
      addDevice(this.m, {
        name,
        manner: this.prng.pick(manners),
        drainMs: this.prng.below(6),
        ...(this.prng.chance(0.25) ? { caps: ['dmaFault', 'relinquish'] as const } : {}),
      });
      return name;
    });
  }

  /** A user of memory, by weight. */
  user(): HolderId {
    const k = this.prng.weighted(this.users.map((u) => u.weight));
    return (this.users[k] as { id: HolderId }).id; // weighted() gives an index of the list
  }

  /** Some of the evictors: all of them half of the time, none one time in eight. */
  someEvictors(): Evictor[] {
    const { prng } = this;
    if (prng.chance(0.5)) return [...this.evictors];
    return prng.chance(0.25) ? [] : this.evictors.filter(() => prng.chance(0.6));
  }

  get busy(): boolean {
    return this.work !== undefined;
  }
}

function boot(prng: Prng): Machine {
  return Machine.boot({
    kernel: prng.pick(KERNEL_NAMES),
    compat: prng.pick(['linux', 'strict']),
    placement: prng.pick(['address', 'address', 'lifo', 'fullest']),
    contents: prng.pick(['tag', 'tag', 'bytes']),
    ram: [
      { start: toPfn(0), end: toPfn(BOOT_LOW * S), node: toNodeId(0) },
      { start: toPfn(FOUR_GIB), end: toPfn(FOUR_GIB + BOOT_HIGH * S), node: toNodeId(0) },
    ],
    reserved: [
      { start: toPfn(0), end: toPfn(256), name: 'firmware' },
      { start: toPfn(4096), end: toPfn(8192), name: 'kernel image' },
    ],
    hotplug: {
      memmapOnMemory: prng.pick(['Y', 'N']),
      autoOnline: prng.pick(['offline', 'offline', 'online', 'online_kernel', 'online_movable']),
    },
    possibleNodes: [toNodeId(0), toNodeId(1)],
    cpus: prng.pick([1, 2]),
    code: 'shared',
  });
}
