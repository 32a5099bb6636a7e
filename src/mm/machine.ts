// Machine: everything one computer knows about its physical memory. Deterministic: same boot, same calls, same result.
//
//   request ──> zonelist of the node ──> watermark ──> Pool.alloc (rings, free area, fallback) ──> frame
//                                                                                                    │
//            holders: whose is it, at which index  <──slot──  sections: head, tails, tag  <──────────┘
//
//   owners    which pool each frame belongs to, and which zone labels it (frame-owners.ts)
//   pools     all pools that hold frames, by id: zones, and user pools that were carved out of them (pools/)
//   zones     the zones among them: what Linux has names for
//
// What lives elsewhere: boot.ts (how it comes to be), page-isolation.ts (may these frames go?), migrate.ts (moving them),
// memory-hotplug.ts (offline and online of a block, in steps), check.ts (the invariants). Cost of a fork: O(pageblocks
// in use + sections + holder runs) copied; frame columns and slot tables are shared until written.

import { assert } from '#base/assert';
import type { Result } from '#base/result';
import {
  type BlockId,
  type HolderId,
  type NodeId,
  type Order,
  type Pfn,
  toBlockId,
  toHolderId,
  toOrder,
  toPfn,
} from '#base/units';
import { type AllocOptions, type SlowPath, takeFor } from './alloc-path.ts';
import { addPools, bootFrames, bootPools, layOut, poolLike, systemRam } from './boot.ts';
import { bootHugepages } from './boot-hugepages.ts';
import { type BootParams, bootParamsOf, hotplugSettingsOf } from './boot-params.ts';
import { checkMachine, type Violation } from './check.ts';
import { declareCma } from './cma.ts';
import { digestOf } from './digest.ts';
import type { LogLine, MachineEvent } from './events.ts';
import { FrameOwners } from './frame-owners.ts';
import type { DisplacedTable, FrameWatch } from './frame-watch.ts';
import { PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, PAGEBLOCKS_PER_SECTION } from './geometry.ts';
import { type HolderSpec, Holders, REQUEST_UNMANAGED } from './holder.ts';
import { Hotplug } from './hotplug.ts';
import { KERNEL_PROFILES, type KernelProfile } from './kernel-profile.ts';
import { type MachineSpec, obeyed } from './machine-spec.ts';
import { copyMachineStates } from './machine-state.ts';
import { type AddOptions, type AddReport, addMemory, type MemoryRange } from './memory-add.ts';
import { type BlockState, MemoryBlocks } from './memory-block.ts';
import { type Notifier, type OfflineOptions, type OfflineReport, OfflineWork, offlineBlock } from './memory-hotplug.ts';
import { type OnlineReport, onlineBlock } from './memory-online.ts';
import { type RemoveReport, removeMemory } from './memory-remove.ts';
import { CLASS_TRAITS, type PageClass, type ZoneIndex, type ZoneName } from './page-class.ts';
import { blockersIn } from './page-isolation.ts';
import type { Pool } from './pool.ts';
import type { PoolRequest } from './pools/request.ts';
import type { Blocker, Refusal } from './refusal.ts';
import { Resources } from './resource.ts';
import {
  KIND_ABSENT,
  KIND_HEAD0,
  KIND_MASK,
  KIND_NONE,
  KIND_TAIL,
  META_DIRTY,
  META_DISPLACED,
  META_PINNED,
  META_STATE,
  META_UNEVICTABLE,
  META_WRITEBACK,
  Sections,
  TAG_BITS,
  TAG_SHIFT,
} from './section.ts';
import { setupWatermarks, type VmTunables, vmTunables } from './vm-tunables.ts';
import { type OnlineType, validZones } from './zone-choice.ts';
import { buildZonelists } from './zonelist.ts';

/** Nodes that memory may come to where the spec does not say: CONFIG_NODES_SHIFT of small machines. */
const POSSIBLE_NODES = 64;

export type FrameInfo =
  | { readonly state: 'absent' }
  | { readonly state: 'offline' }
  | { readonly state: 'free'; readonly pool: Pool }
  | {
      readonly state: 'used';
      readonly pool: Pool;
      readonly head: Pfn;
      readonly order: Order;
      readonly holder: HolderId;
      readonly class: PageClass;
      readonly name: string;
      /** Index in the holder. */
      readonly index: number;
      readonly pinned: boolean;
    };

/** Omit, applied to each member of the union. */
type Unnumbered = MachineEvent extends infer E ? (E extends MachineEvent ? Omit<E, 'seq'> : never) : never;

export type BlockInfo = {
  readonly id: BlockId;
  readonly state: BlockState;
  readonly startPfn: Pfn;
  readonly endPfn: Pfn;
  /** Undefined when it is offline or lies in more than one. */
  readonly pool: Pool | undefined;
  readonly node: NodeId;
  /** Frames that are not RAM. */
  readonly absent: number;
};

/** A frozen copy of a machine, for Machine.restore. */
export type Snapshot = { readonly image: Machine };

/** What the tables say a frame's contents are worth: set when it is handed out, carried along by every move. */
export const tagOf = (slot: number): number => {
  const x = Math.imul(slot ^ (slot >>> 15), 0x2c1b3c6d);
  return 1 + ((x >>> 12) % ((1 << TAG_BITS) - 1));
};

export class Machine {
  readonly spec: MachineSpec;
  /** The Linux it behaves as. */
  readonly profile: KernelProfile;
  /** What its command line asked for. */
  readonly params: BootParams;
  /** Settings, addresses, groups and adds of memory hotplug. */
  readonly hotplug: Hotplug;
  /** Frames of a memory block. */
  readonly blockPages: number;
  readonly sections: Sections;
  readonly holders = new Holders();
  /** By id. User pools that were destroyed stay, empty, until their id is taken again. */
  readonly pools: Pool[] = [];
  /** Those of kind `zone`. */
  readonly zones: Pool[] = [];
  readonly blocks: MemoryBlocks;
  readonly owners: FrameOwners;
  /** What requests that name a pool may use; rows are named by holders and by Pools (pools/request.ts). */
  requests: readonly PoolRequest[] = [];
  /** Told of every change of a frame; one at most. Not copied to forks. */
  frameWatch: FrameWatch | undefined;
  /** Where the virtual addresses of displaced allocations are (kremap/). Forks have their own copy. */
  displaced: DisplacedTable | undefined;
  /** Asked by a request that found nothing above min, before it gives up. Not copied to forks. */
  slowPath: SlowPath | undefined;
  /** Asked at each named step that can fail in the world: true makes it fail. For tests and worlds. Not copied to forks. */
  faultAt: ((point: string) => boolean) | undefined;
  /** Counters by Linux's name, where it has one. */
  readonly vmstat = {
    pgmigrate_success: 0,
    pgmigrate_fail: 0,
    pgalloc_fail: 0,
    cma_alloc_success: 0,
    cma_alloc_fail: 0,
    compact_migrate_scanned: 0,
    compact_free_scanned: 0,
    compact_isolated: 0,
    compact_stall: 0,
    compact_fail: 0,
    compact_success: 0,
    compact_daemon_wake: 0,
    compact_daemon_migrate_scanned: 0,
    compact_daemon_free_scanned: 0,
    pgsteal_direct: 0,
    drop_pagecache: 0,
    drop_slab: 0,
  };
  /** What /proc/sys/vm says; written through vm-tunables.ts. */
  readonly vm: VmTunables;
  /** Listeners of the memory notifier chain, in order (spec 3.3). Not copied to forks. */
  readonly notifiers: Notifier[] = [];
  /** Called after each change of a memory block; not copied to forks. */
  onEvent: ((event: MachineEvent) => void) | undefined;
  /** Called for what Linux would print to its log; not copied to forks. */
  onLog: ((line: LogLine) => void) | undefined;
  /** Why the last alloc returned -1. */
  lastRefusal: Refusal | undefined;
  seq = 0;
  /** Offlines that have begun and are not over. Kept by OfflineWork; not copied to forks. */
  offlinesUnderWay = 0;

  readonly #tagged: boolean;
  /** Written contents by PageIndex; only with contents: 'bytes'. */
  readonly #bytes: Map<number, Uint8Array> | undefined;
  /** Nodes that are online, ascending. */
  #nodes: readonly NodeId[];
  /** One for all copies of a machine: only they may become each other. */
  #boot: object = {};
  /** Those that were online at boot. */
  #bootNodes: readonly NodeId[];
  /** Pools to try, by node row * 4 + highest zone. */
  zonelists: Int32Array[] = [];

  private constructor(
    spec: MachineSpec,
    blockPages: number,
    sections: Sections,
    blocks: MemoryBlocks,
    nodes: readonly NodeId[],
  ) {
    this.spec = spec;
    this.profile = KERNEL_PROFILES[spec.kernel ?? '6.12'];
    this.params = bootParamsOf(spec);
    const settings = { ...hotplugSettingsOf(this.params), ...spec.hotplug };
    this.hotplug = new Hotplug(settings, new Resources(spec.iomem ?? systemRam(spec.ram)));
    this.blockPages = blockPages;
    this.sections = sections;
    this.blocks = blocks;
    this.owners = new FrameOwners(sections.length * PAGEBLOCKS_PER_SECTION);
    this.#nodes = nodes;
    this.#bootNodes = nodes;
    this.vm = vmTunables(spec);
    this.#tagged = spec.contents !== 'none';
    this.#bytes = spec.contents === 'bytes' ? new Map() : undefined;
  }

  // ------------------------------------------------------------------------------------------------------- boot

  /**
   * Switches a computer on.
   *
   * A spec that contradicts itself throws. Cost O(sections + reserved frames): an empty TiB takes milliseconds.
   */
  static boot(computer: MachineSpec): Machine {
    const spec = obeyed(computer);
    const frame = layOut(spec);
    const m = new Machine(spec, frame.blockPages, frame.sections, frame.blocks, frame.nodes);
    bootPools(m, frame.zoned);
    m.rebuildZonelists();
    bootFrames(m, frame.zoned);
    for (const p of m.pools) p.presentEarly = p.present;
    m.blocks.early.fill(1);
    m.blocks.stayed.fill(1); // the caller may place what it likes
    for (const range of spec.cma ?? []) declareCma(m, range);
    setupWatermarks(m, 'boot');
    bootHugepages(m);
    return m;
  }

  /** Pools that a request on `node` may use, in the order it tries them. */
  zonelist(node: NodeId, topZone: ZoneIndex): Int32Array {
    const row = this.#nodes.indexOf(node);
    assert(row >= 0, 'no such node', { node });
    return this.zonelists[row * 4 + topZone] as Int32Array;
  }

  get nodes(): readonly NodeId[] {
    return this.#nodes;
  }

  /** After managed changed: watermarks, reserves, per-CPU list sizes and zonelists of all pools (spec 2.4, 2.5, 2.9). */
  updateWatermarks(): void {
    setupWatermarks(this, 'zones-changed');
  }

  // ------------------------------------------------------------------------------------------- request and return

  addHolder(spec: Omit<HolderSpec, 'node'> & { node?: NodeId }): HolderId {
    return this.holders.add({ ...spec, node: spec.node ?? -1 });
  }

  /**
   * Takes 2^order frames for a holder.
   *
   * The holder's class says what kind of frames (page-class.ts). Pools are tried in zonelist order, above their low
   * watermark first, then above min. Cost: some loads and stores when a per-CPU list has a page.
   *
   * @returns the first frame; -1 when there is none, and `lastRefusal` says why
   */
  alloc(holder: HolderId, order: Order, options?: AllocOptions): Pfn | -1 {
    const index = takeFor(this, holder, order, options);
    if (index < 0) return -1;
    this.occupy(holder, index, order);
    if (((this.holders.request[holder] as number) & REQUEST_UNMANAGED) !== 0) {
      (this.poolAt(index) as Pool).managed -= 1 << order; // a pool hands out only frames it owns
    }
    return this.sections.pfnOf(index);
  }

  /** Writes the frame columns of a new allocation. */
  occupy(holder: number, index: number, order: number): void {
    const slot = this.holders.attach(holder, index, 1 << order);
    this.sections.occupy(index, order, slot, this.#tagged ? tagOf(slot) << TAG_SHIFT : 0);
    if (this.frameWatch !== undefined) this.frameWatch.occupied(index, order, holder);
  }

  /** @internal An allocation's holder loses it; whose its columns are now is the caller's to write. @returns who that was */
  unhold(head: number, order: number): HolderId {
    const holder = this.holders.detach(this.sections.ownerAt(head), 1 << order);
    this.frameWatch?.vacated(head, order, holder);
    return toHolderId(holder);
  }

  /**
   * An allocation becomes 2^order allocations of one frame, in place, with its contents and what is said of it. Used by
   * migrate.ts only. A displaced one stays whole: kremap/ moves it as such.
   */
  divide(head: number, order: number): void {
    const state = this.sections.metaAt(head) & META_STATE;
    assert((state & META_DISPLACED) === 0, 'a displaced allocation is not divided', { head, order });
    const holder = this.unhold(head, order);
    for (let i = head; i < head + (1 << order); i++) {
      this.occupy(holder, i, 0);
      if (state !== 0) this.sections.setMeta(i, this.sections.metaAt(i) | state);
    }
  }

  #unmark(index: number, order: number): void {
    this.sections.vacate(index, order);
    if (this.#bytes !== undefined) for (let i = index; i < index + (1 << order); i++) this.#bytes.delete(i);
  }

  /** Returns an allocation: `pfn` is the frame that alloc gave. A frame that is no head throws. */
  free(pfn: Pfn): void {
    const index = this.sections.indexOf(pfn);
    const pool = index < 0 ? undefined : this.poolAt(index);
    // Most frees are of single frames whose contents are a tag: their row is read and cleared in one look.
    let slot = pool === undefined || this.#bytes !== undefined ? -1 : this.sections.vacateSingle(index);
    let order = 0;
    if (slot < 0) {
      const kind = index < 0 ? KIND_NONE : this.sections.metaAt(index) & KIND_MASK;
      if (kind === KIND_NONE || kind >= KIND_TAIL)
        assert(false, 'free of a frame that is no allocation', { pfn, kind });
      if (pool === undefined) assert(false, 'free of a frame that is offline', { pfn }); // Linux: unpoison gives EIO
      order = kind - KIND_HEAD0;
      slot = this.sections.ownerAt(index);
      if ((this.sections.metaAt(index) & META_DISPLACED) !== 0) this.displaced?.vacated(index, order);
      this.#unmark(index, order);
    }
    const owner = pool as Pool; // the asserts above
    const holder = this.holders.detach(slot, 1 << order);
    // Linux: free_reserved_page(), adjust_managed_page_count().
    if (((this.holders.request[holder] as number) & REQUEST_UNMANAGED) !== 0) owner.managed += 1 << order;
    if (this.frameWatch !== undefined) this.frameWatch.vacated(index, order, holder);
    const { rings } = owner;
    if (rings !== undefined && order === 0 && rings.push(index - owner.base)) return;
    owner.alloc.free(index - owner.base, order);
  }

  /**
   * Puts frames that nobody has, and that are not free either, into a holder's hands without asking the allocator: boot
   * reservations, and twins that repeat what a capture says. Cut into the largest aligned pieces up to `maxOrder`
   * (default a pageblock). `managed` is the caller's. Anything else than such frames is a bug and throws.
   */
  place(holder: HolderId, start: Pfn, end: Pfn, maxOrder = PAGEBLOCK_ORDER): void {
    for (let pfn: number = start; pfn < end; ) {
      let order = 0;
      while (order < maxOrder && pfn % (2 << order) === 0 && pfn + (2 << order) <= end) order++;
      const index = this.sections.indexOf(toPfn(pfn));
      assert(index >= 0, 'place: no such frame', { pfn });
      for (let i = index; i < index + (1 << order); i++) {
        const kind = this.sections.metaAt(i) & KIND_MASK;
        if (kind !== KIND_NONE) assert(false, 'place: the frame is taken', { pfn: this.sections.pfnOf(i), kind });
      }
      const pool = this.poolAt(index);
      const free = pool === undefined ? 0 : pool.alloc.area.freeIn(index - pool.base, index - pool.base + (1 << order));
      assert(free === 0, 'place: frames are free: they are to be taken by alloc', { pfn, order, free });
      if (pool === undefined) this.#staysOffline(pfn);
      this.occupy(holder, index, order);
      pfn += 1 << order;
    }
  }

  #staysOffline(pfn: number): void {
    const row = this.blocks.rowOf(toBlockId(Math.floor(pfn / this.blockPages)));
    if (row >= 0) this.blocks.stayed[row] = 1;
  }

  /** An extra reference (a pin): migration cannot move the allocation until `unpin`. Idempotent. */
  pin(pfn: Pfn): void {
    this.#setBits(pfn, META_PINNED, META_PINNED);
  }

  unpin(pfn: Pfn): void {
    this.#setBits(pfn, META_PINNED, 0);
  }

  /**
   * What the user of an allocation says of it; what is left out stays as it was. Dirty: it differs from what storage has.
   * Writeback: storage reads it just now, so that it can neither move nor be dropped until that is over.
   */
  setPageFlags(
    pfn: Pfn,
    flags: { readonly dirty?: boolean; readonly writeback?: boolean; readonly unevictable?: boolean },
  ): void {
    let mask = 0;
    let bits = 0;
    const say = (word: boolean | undefined, bit: number): void => {
      if (word === undefined) return;
      mask |= bit;
      if (word) bits |= bit;
    };
    say(flags.dirty, META_DIRTY);
    say(flags.writeback, META_WRITEBACK);
    say(flags.unevictable, META_UNEVICTABLE);
    this.#setBits(pfn, mask, bits);
  }

  #setBits(pfn: Pfn, mask: number, bits: number): void {
    const index = this.sections.indexOf(pfn);
    const a = index < 0 ? undefined : this.sections.allocationAt(index);
    assert(a !== undefined, 'pin, or word of state, of a frame that is not allocated', { pfn });
    this.sections.setMeta(a.head, (this.sections.metaAt(a.head) & ~mask) | bits);
    this.frameWatch?.marked(a.head);
  }

  /** With contents 'bytes': writes into a used frame. */
  write(pfn: Pfn, offset: number, data: Uint8Array): void {
    const index = this.#usedIndex(pfn);
    assert(this.#bytes !== undefined, "write needs contents: 'bytes'");
    assert(offset >= 0 && offset + data.length <= PAGE_SIZE, 'write beyond the frame', { offset, bytes: data.length });
    let page = this.#bytes.get(index);
    if (page === undefined) this.#bytes.set(index, (page = new Uint8Array(PAGE_SIZE)));
    page.set(data, offset);
  }

  /** With contents 'bytes': a copy of a used frame's bytes (zeros where never written). */
  read(pfn: Pfn): Uint8Array {
    const index = this.#usedIndex(pfn);
    assert(this.#bytes !== undefined, "read needs contents: 'bytes'");
    return this.#bytes.get(index)?.slice() ?? new Uint8Array(PAGE_SIZE);
  }

  #usedIndex(pfn: Pfn): number {
    const index = this.sections.indexOf(pfn);
    assert(index >= 0 && this.sections.allocationAt(index) !== undefined, 'the frame is not in use', { pfn });
    return index;
  }

  /**
   * Moves an allocation's contents and identity from `from` to `to` (2^order free frames that the caller took).
   * The source frames belong to nobody afterwards: the caller gives them back. Used by migrate.ts only.
   */
  relocate(from: number, to: number, order: number): void {
    const { sections } = this;
    const slot = sections.ownerAt(from);
    if ((sections.metaAt(from) & META_DISPLACED) !== 0) this.displaced?.moved(from, to, order);
    sections.copy(from, to, order);
    if (this.#bytes !== undefined) {
      for (let k = 0; k < 1 << order; k++) {
        const page = this.#bytes.get(from + k);
        if (page !== undefined) this.#bytes.set(to + k, page.slice());
      }
    }
    // Switch: from here on the holder finds its page at the new place.
    this.holders.move(slot, to);
    this.#unmark(from, order);
    this.frameWatch?.moved(from, to, order, this.holders.holderOf(slot));
  }

  // -------------------------------------------------------------------------------------------------- questions

  /** The pool that owns a frame of the dense index; undefined where it is offline. */
  poolAt(index: number): Pool | undefined {
    const id = this.owners.owner[index >>> PAGEBLOCK_ORDER] as number;
    return id >= 0 ? this.pools[id] : this.pools[this.owners.at(index)];
  }

  /** The zone that labels a frame of the dense index; undefined where it is offline. */
  zoneAt(index: number): Pool | undefined {
    return this.pools[this.owners.zoneAt(index)];
  }

  /** The zone of a node. */
  poolNamed(node: NodeId, name: ZoneName): Pool | undefined {
    return this.zones.find((p) => p.node === node && p.name === name);
  }

  frame(pfn: Pfn): FrameInfo {
    const index = this.sections.indexOf(pfn);
    if (index < 0 || (this.sections.metaAt(index) & KIND_MASK) === KIND_ABSENT) return { state: 'absent' };
    const pool = this.poolAt(index);
    if (pool === undefined) return { state: 'offline' };
    const a = this.sections.allocationAt(index);
    if (a === undefined) return { state: 'free', pool };
    const slot = this.sections.ownerAt(a.head);
    const holder = this.holders.holderOf(slot);
    const spec = this.holders.specs[holder] as HolderSpec;
    return {
      state: 'used',
      pool,
      head: this.sections.pfnOf(a.head),
      order: toOrder(a.order),
      holder,
      class: spec.class,
      name: spec.name,
      index: this.holders.indexOf(slot),
      pinned: (this.sections.metaAt(a.head) & META_PINNED) !== 0,
    };
  }

  /** Calls back for each allocation of a holder, ascending by index. */
  forEachFrameOf(holder: HolderId, each: (head: Pfn, order: Order, index: number) => void): void {
    this.holders.forEachMember(holder, (frame, index) => {
      const kind = this.sections.metaAt(frame) & KIND_MASK;
      each(this.sections.pfnOf(frame), toOrder(kind - KIND_HEAD0), index);
    });
  }

  /** Used frames of a pageblock whose class moves (the claim rule counts them, spec 2.3). */
  movableIn(index: number): number {
    let n = 0;
    const end = index + PAGEBLOCK_PAGES;
    for (let i = index; i < end; ) {
      const kind = this.sections.metaAt(i) & KIND_MASK;
      if (kind < KIND_HEAD0 || kind >= KIND_TAIL) {
        i++;
        continue;
      }
      const pages = 1 << (kind - KIND_HEAD0);
      const holder = this.holders.holderOf(this.sections.ownerAt(i));
      const mobility = CLASS_TRAITS[(this.holders.specs[holder] as HolderSpec).class].mobility;
      if (mobility === 'lru' || mobility === 'driver') n += Math.min(pages, end - i);
      i += pages;
    }
    return n;
  }

  block(id: BlockId): BlockInfo | undefined {
    const row = this.blocks.rowOf(id);
    if (row < 0) return undefined;
    const start = id * this.blockPages;
    const pool = this.blocks.pool[row] as number;
    return {
      id,
      state: this.blocks.stateAt(row),
      startPfn: toPfn(start),
      endPfn: toPfn(start + this.blockPages),
      pool: this.pools[pool],
      node: this.blocks.node[row] as NodeId,
      absent: this.blocks.absent[row] as number,
    };
  }

  blockIds(): BlockId[] {
    return Array.from(this.blocks.id, (n) => toBlockId(n));
  }

  /** What would stop [start, end) from being isolated, in runs of one holder. Reads only. Cost O(frames). */
  blockersIn(start: Pfn, end: Pfn): Blocker[] {
    return blockersIn(this, start, end);
  }

  // -------------------------------------------------------------------------------------------- offline and online

  /** Takes a block out of use, to the end: see memory-hotplug.ts. A refusal leaves the machine as it was. */
  offline(id: BlockId, options?: OfflineOptions): Result<OfflineReport, Refusal> {
    return offlineBlock(this, id, options);
  }

  /** The same, in steps between which the machine may be used. */
  beginOffline(id: BlockId, options?: OfflineOptions): OfflineWork {
    return new OfflineWork(this, id, options);
  }

  /** Brings an offline block into a zone of its node: one that is named, or the policy's choice (`online`). */
  online(id: BlockId, how: OnlineType): Result<OnlineReport, Refusal> {
    return onlineBlock(this, id, how);
  }

  /** Zones that an offline block may go to, default first; an online block's zone; none when it lies in several. */
  validZones(id: BlockId): string[] {
    return validZones(this, id);
  }

  /**
   * Adds memory: [start, end), whole blocks, to a node. Its blocks appear offline, and come online as
   * `hotplug.settings.autoOnline` says. Refusals: memory-add.ts. Cost O(blocks of the machine + of the range).
   */
  addMemory(range: MemoryRange, node: NodeId, options?: AddOptions): Result<AddReport, Refusal> {
    return addMemory(this, range, node, options);
  }

  /** Removes memory whose blocks are all offline. Refusals: memory-remove.ts. */
  removeMemory(range: MemoryRange): Result<RemoveReport, Refusal> {
    return removeMemory(this, range);
  }

  /** May memory be added to this node? */
  isPossible(node: NodeId): boolean {
    return this.spec.possibleNodes?.includes(node) ?? (node >= 0 && node < POSSIBLE_NODES);
  }

  /** @internal A node comes to be, with empty Normal and Movable pools. */
  onlineNode(node: NodeId): void {
    this.#nodes = [...this.#nodes, node].sort((a, b) => a - b);
    addPools(this, node);
    this.rebuildZonelists();
    this.emit({ type: 'node-online', node });
  }

  /** @internal A node goes when it spans no frames, has no block, not even an offline one, and no CPU. */
  tryOfflineNode(node: NodeId): boolean {
    const spans = this.zones.some((p) => p.node === node && p.spanned > 0);
    const cpus = this.spec.nodeCpus?.get(node) ?? (node === this.#nodes[0] ? 1 : 0);
    if (spans || cpus > 0 || this.blocks.node.includes(node) || this.#nodes.length === 1) return false;
    this.#nodes = this.#nodes.filter((n) => n !== node);
    this.rebuildZonelists();
    this.emit({ type: 'node-offline', node });
    return true;
  }

  /**
   * NUMA distance: 10 is local. As the spec's table says, whose rows are the possible nodes if there is one for each, else
   * those that were online at boot; a node that came later is 20 away.
   */
  distance(from: NodeId, to: NodeId): number {
    const { distance, possibleNodes } = this.spec;
    const named = possibleNodes?.length === distance?.length ? [...(possibleNodes ?? [])] : this.#bootNodes;
    const rows = [...named].sort((a, b) => a - b);
    return distance?.[rows.indexOf(from)]?.[rows.indexOf(to)] ?? (from === to ? 10 : 20);
  }

  /** @internal After pools or nodes came or went. */
  rebuildZonelists(): void {
    const { nodeCpus } = this.spec;
    const distance = this.#nodes.map((a) => this.#nodes.map((b) => this.distance(a, b)));
    const hasCpus = (node: NodeId): boolean => nodeCpus?.get(node) !== 0;
    this.zonelists = buildZonelists({ nodes: this.#nodes, distance, hasCpus }, this.zones);
  }

  /** @internal After sections came or went: the owner table covers them all, new ones owned by nobody. */
  growTables(): void {
    this.owners.grow(this.sections.length * PAGEBLOCKS_PER_SECTION);
  }

  /** @internal An allocation in an offline block is forgotten: its holder loses it, nobody gets it. */
  forget(index: number): void {
    assert(this.poolAt(index) === undefined, 'forget of a frame that is online', { pfn: this.sections.pfnOf(index) });
    const order = (this.sections.metaAt(index) & KIND_MASK) - KIND_HEAD0;
    if ((this.sections.metaAt(index) & META_DISPLACED) !== 0) this.displaced?.vacated(index, order);
    this.unhold(index, order);
    this.#unmark(index, order);
  }

  /** The pool of a zone on a node; made if there is none yet. */
  poolOfZone(node: number, zone: ZoneIndex): Pool {
    const found = this.zones.find((p) => p.node === node && p.zone === zone);
    assert(found !== undefined, 'no such pool', { node, zone });
    return found;
  }

  /** One event to the listener, with the next number. */
  emit(event: Unnumbered): void {
    this.seq++;
    this.onEvent?.({ ...event, seq: this.seq } as MachineEvent); // each member of the union, numbered
  }

  // ------------------------------------------------------------------------------------------ copies and checking

  /**
   * An independent copy. Listeners are not copied, and neither is the work of an offline that is under way: its block
   * stays going-offline in the copy.
   */
  fork(): Machine {
    const spec: MachineSpec = { ...this.spec, code: 'shared' };
    const m = new Machine(spec, this.blockPages, new Sections(0), new MemoryBlocks(new Float64Array(0)), this.#nodes);
    m.#boot = this.#boot;
    m.copyFrom(this);
    return m;
  }

  /**
   * Becomes equal to `other`, a machine of the same boot. Cheaper than a new fork: no tables are made. A bug while an
   * offline is under way here: its work would go on in a machine that it does not know.
   */
  copyFrom(other: Machine): void {
    assert(this.offlinesUnderWay === 0, 'an offline is under way: end or cancel it first');
    this.#become(other);
  }

  /** @internal An offline's last rung of undo. Its events were sent, so that their numbers stay spent. */
  rollBack(before: Machine): void {
    const { seq } = this;
    this.#become(before);
    this.seq = seq;
  }

  #become(other: Machine): void {
    assert(this.#boot === other.#boot, 'not of one boot');
    this.sections.share(other.sections);
    this.holders.share(other.holders);
    this.pools.length = other.pools.length;
    for (const p of other.pools) {
      const mine = this.pools[p.id];
      const same = mine !== undefined && mine.kind === p.kind && mine.name === p.name && mine.node === p.node;
      const pool = same ? mine : poolLike(this, p);
      pool.copyFrom(p);
      this.pools[p.id] = pool;
    }
    this.zones.length = 0;
    this.zones.push(...this.pools.filter((p) => p.kind === 'zone'));
    this.#nodes = other.#nodes;
    this.#bootNodes = other.#bootNodes;
    Object.assign(this.vm, other.vm);
    this.rebuildZonelists();
    copyMachineStates(other, this);
    this.blocks.copyFrom(other.blocks);
    this.hotplug.copyFrom(other.hotplug);
    this.owners.copyFrom(other.owners);
    this.requests = other.requests;
    this.displaced = other.displaced?.copy(this);
    Object.assign(this.vmstat, other.vmstat);
    this.seq = other.seq;
    this.lastRefusal = other.lastRefusal;
    if (this.#bytes !== undefined && other.#bytes !== undefined) {
      this.#bytes.clear();
      for (const [i, page] of other.#bytes) this.#bytes.set(i, page.slice());
    }
  }

  /** A frozen copy for `restore`. */
  snapshot(): Snapshot {
    return { image: this.fork() };
  }

  /** Back to a snapshot of this machine, event numbers included. As copyFrom, a bug while an offline is under way. */
  restore(snapshot: Snapshot): void {
    this.copyFrom(snapshot.image);
  }

  /** The invariants; empty when sound. Level 0 counters, 1 free lists, 2 every frame, 3 holders and contents too. */
  check(level: 0 | 1 | 2 | 3 = 3): Violation[] {
    return checkMachine(this, level, this.#tagged);
  }

  /** A number that two machines share when all their tables say the same (64 bits in two halves). Cost O(frames in use). */
  digest(): string {
    return digestOf(this);
  }

  /** Bytes of tables, shared ones included. */
  bytes(): number {
    return (
      this.sections.bytes() +
      this.holders.bytes() +
      this.owners.bytes() +
      this.pools.reduce((n, p) => n + p.alloc.bytes(), 0)
    );
  }
}
