// The whole life of memory against a naive model: it is added, comes online, is used, poisoned, goes offline, is removed and
// comes again, on three nodes, with forks, snapshots, groups and every setting, for each kernel.
//
// The model knows blocks and zones only (plain maps, test/model/linux-zones.ts): what an operation must answer (errno and
// why), and afterwards every span, counter, state, valid_zones, /proc/iomem, node and group. Which frames an allocation
// gets is the engine's business; the model counts them by holder, and says where none may be.
//
//   node 0   blocks 8-15 DMA32, 32-33 Normal        node 1   blocks 40-41 Normal        node 2   comes and goes
//
//   DIMMER_SEED=n  replay one seed      DIMMER_SEEDS=n  how many (default 14)      DIMMER_LIFE_OPS=n  events of each (160)
//   DIMMER_SEEN=1  prints how often each outcome was seen

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { LinuxZones, type Params } from '../../test/model/linux-zones.ts';
import { PAGE_SIZE, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import { AUTO_ONLINE, KERNEL_NAMES, type KernelName } from './kernel-profile.ts';
import { Machine, type Snapshot } from './machine.ts';
import { MEMMAP_POLICIES, type MemmapLayout as MemmapPolicy } from './memmap.ts';
import type { AddOptions } from './memory-add.ts';
import type { GroupId } from './memory-group.ts';
import { CLASS_TRAITS, type PageClass, ZONE_MOVABLE, ZONE_NAMES, type ZoneIndex } from './page-class.ts';
import type { ErrnoName } from './refusal.ts';
import type { OnlineType } from './zone-choice.ts';

const SEEDS = Number(process.env.DIMMER_SEEDS ?? 14);
const OPS = Number(process.env.DIMMER_LIFE_OPS ?? 160);
const S = PAGES_PER_SECTION;
const LAST_BLOCK = 64;
const BOOT = [
  { first: 8, end: 16, node: 0 },
  { first: 32, end: 34, node: 0 },
  { first: 40, end: 42, node: 1 },
] as const;
const CLASSES: readonly PageClass[] = ['anonymous', 'file', 'slab', 'pagetable', 'balloon'];
const ONLINE: Readonly<Record<string, OnlineType>> = {
  online: 'online',
  online_kernel: 'kernel',
  online_movable: 'movable',
};

type Block = {
  readonly node: number;
  readonly group: number;
  readonly early: boolean;
  /** Which add it came by; 0 = boot. */
  readonly range: number;
  readonly policy: MemmapPolicy;
  /** Frames at its head that hold struct pages, and frames that are not backed. */
  readonly head: number;
  readonly unbacked: number;
  zone: number | undefined;
  poisoned: number;
};
type Range = { readonly name: string; readonly first: number; readonly end: number; readonly policy: MemmapPolicy };

/** What the machine should be. */
class Model {
  readonly zones: LinuxZones;
  readonly blocks = new Map<number, Block>();
  /** Lines of /proc/iomem by block: an id for each line. */
  readonly lines = new Map<number, number>();
  readonly names = new Map<number, string>();
  readonly ranges = new Map<number, Range>();
  nodes = new Set<number>([0, 1]);
  next = 1;

  constructor(zones: LinuxZones) {
    this.zones = zones;
  }

  clone(): Model {
    const copy = new Model(this.zones.clone());
    for (const [id, b] of this.blocks) copy.blocks.set(id, { ...b });
    for (const [id, line] of this.lines) copy.lines.set(id, line);
    for (const [id, name] of this.names) copy.names.set(id, name);
    for (const [id, r] of this.ranges) copy.ranges.set(id, r);
    copy.nodes = new Set(this.nodes);
    copy.next = this.next;
    return copy;
  }

  /** Frames of a block that are managed while it is online: heads of a whole range are, those of a block are not. */
  managed(b: Block): number {
    return S - (b.policy === 'self-range' ? 0 : b.head) - b.unbacked;
  }

  online(id: number, zone: number): void {
    const b = this.blocks.get(id) as Block;
    this.zones.online(b.node, zone, id * S, S, b.group, b.early);
    b.zone = zone;
    b.poisoned = 0;
  }

  offline(id: number): void {
    const b = this.blocks.get(id) as Block;
    this.zones.offline(b.node, b.zone as number, id * S, S, b.group, b.early);
    b.zone = undefined;
  }

  iomem(): string[] {
    const out: string[] = [];
    const ids = [...this.lines.keys()].sort((a, b) => a - b);
    for (let k = 0; k < ids.length; ) {
      const line = this.lines.get(ids[k]) as number;
      let end = k;
      while (ids[end + 1] === ids[end] + 1 && this.lines.get(ids[end + 1]) === line) end++;
      const start = ids[k] * S * PAGE_SIZE;
      out.push(`${start}-${(ids[end] + 1) * S * PAGE_SIZE - 1} ${this.names.get(line)}`);
      k = end + 1;
    }
    return out;
  }
}

type World = {
  readonly prng: Prng;
  readonly kernel: KernelName;
  /** Some worlds want more memory than there is. */
  readonly hunger: number;
  m: Machine;
  model: Model;
  holders: { id: HolderId; cls: PageClass }[];
  saved: { snapshot: Snapshot; model: Model; holders: World['holders'] } | undefined;
  readonly seen: Map<string, number>;
};

function worldOf(seed: number): World {
  const prng = new Prng(seed);
  const kernel = KERNEL_NAMES[seed % KERNEL_NAMES.length];
  const params: Params = {
    policy: prng.pick(['contig-zones', 'auto-movable']),
    ratio: prng.pick([100, 301]),
    numaAware: prng.chance(0.5),
    movableNode: prng.chance(0.3),
  };
  const m = Machine.boot({
    kernel,
    ram: BOOT.map((r) => ({ start: toPfn(r.first * S), end: toPfn(r.end * S), node: toNodeId(r.node) })),
    blockSize: 2 ** 27,
    watermarks: 'none',
    cpus: 2,
    possibleNodes: [0, 1, 2].map(toNodeId),
    nodeCpus: new Map([0, 1].map((n) => [toNodeId(n), 1])),
    placement: prng.pick(['address', 'fullest', 'lifo']),
    code: 'shared',
    hotplug: {
      autoOnline: 'offline',
      memmapOnMemory: prng.chance(0.8) ? 'Y' : 'N',
      onlinePolicy: params.policy,
      autoMovable: { ratio: params.ratio, numaAware: params.numaAware },
      movableNode: params.movableNode,
    },
  });
  const model = new Model(new LinuxZones(params));
  for (const p of m.pools) {
    Object.assign(model.zones.zone(p.node, p.zone), {
      start: p.startPfn,
      end: p.endPfn,
      present: p.present,
      early: p.present,
    });
  }
  for (const r of BOOT) {
    const line = model.next++;
    model.names.set(line, 'System RAM');
    for (let id = r.first; id < r.end; id++) {
      const zone = r.first < 32 ? 1 : 2;
      const rest = { group: -1, early: true, range: 0, policy: 'kernel', head: 0, unbacked: 0, poisoned: 0 } as const;
      model.blocks.set(id, { node: r.node, zone, ...rest });
      model.zones.zone(r.node, zone).sections.add(id * S);
      model.lines.set(id, line);
    }
  }
  const holders = CLASSES.map((cls) => ({ cls, id: m.addHolder({ class: cls, name: cls }) }));
  const hunger = prng.pick([1, 1, 40]);
  return { prng, kernel, hunger, m, model, holders, saved: undefined, seen: new Map() };
}

const freeIn = (m: Machine, zone: (z: ZoneIndex) => boolean): number =>
  m.pools.reduce((n, p) => n + (zone(p.zone) ? p.alloc.nrFree() + p.alloc.pcpPages() : 0), 0);

/** Frames of a block that somebody has: those that move, those that never do. The engine says where, the class says which. */
function usedIn(w: World, id: number): { movable: number; fixed: number } {
  const out = { movable: 0, fixed: 0 };
  for (let h = 0; h < w.m.holders.length; h++) {
    const { mobility } = CLASS_TRAITS[w.m.holders.specs[h].class];
    if (mobility === 'stays') continue;
    const head = (w.model.blocks.get(id) as Block).head;
    w.m.forEachFrameOf(h as HolderId, (pfn, order) => {
      if (pfn < id * S + head || pfn >= (id + 1) * S) return;
      out[mobility === 'never' ? 'fixed' : 'movable'] += 2 ** order;
    });
  }
  return out;
}

// ------------------------------------------------------------------------------------------------------- the events

function addEvent(w: World): string {
  const { prng, m, model } = w;
  const first = prng.below(LAST_BLOCK);
  const count = 1 + prng.below(prng.chance(0.2) ? 8 : 3);
  const ragged = prng.chance(0.05);
  const start = first * S + (ragged ? 512 : 0);
  const end = start + count * S;
  const node = prng.weighted([4, 4, 4, 0.3].map((x) => 10 * x));
  const asked = prng.chance(0.4) ? undefined : prng.pick(MEMMAP_POLICIES);
  let group = -1;
  if (prng.chance(0.4)) {
    group = prng.below(model.zones.groups.length + 1);
    const there = model.zones.groups[group];
    if (there === undefined && group === model.zones.groups.length && node < 3) {
      const dynamic = prng.chance(0.5);
      const pages = dynamic ? S * prng.pick([1, 2]) : count * S;
      group = m.hotplug.groups.register(dynamic ? 'dynamic' : 'static', toNodeId(node), pages);
      model.zones.groups[group] = { dynamic, node, maxOrUnit: pages, kernel: 0, movable: 0 };
    } else if (there !== undefined && !there.dynamic) {
      group = -1; // a DIMM is added once
    }
  }
  const driverManaged = prng.chance(0.1) ? prng.pick(['System RAM (kmem)', 'kmem']) : undefined;
  const unbackedTail = prng.chance(0.15) ? PAGEBLOCK_PAGES * (1 + prng.below(16)) : 0;
  const merge = prng.chance(0.3);
  const options: AddOptions = {
    merge,
    ...(asked === undefined ? {} : { memmap: asked }),
    ...(group < 0 ? {} : { group: group as GroupId }),
    ...(driverManaged === undefined ? {} : { driverManaged }),
    ...(unbackedTail === 0 ? {} : { usable: [{ start: toPfn(start), end: toPfn(end - unbackedTail) }] }),
  };

  const ids = Array.from({ length: count }, (_, k) => first + k);
  const touched = ragged ? [...ids, first + count] : ids;
  const g = model.zones.groups[group];
  const on = m.hotplug.settings.memmapOnMemory === 'Y' && asked !== undefined && asked !== 'kernel';
  const policy: MemmapPolicy = !on || (asked === 'self-block' && w.kernel === '6.1' && count > 1) ? 'kernel' : asked;
  let rest = policy === 'self-range' ? count * PAGEBLOCK_PAGES : 0;
  const heads = ids.map(() => {
    if (policy === 'self-block') return PAGEBLOCK_PAGES;
    const head = Math.min(rest, S);
    rest -= head;
    return head;
  });
  let errno: ErrnoName | undefined;
  if (driverManaged === 'kmem') errno = 'EINVAL';
  else if (touched.some((id) => model.blocks.has(id))) errno = 'EEXIST';
  else if (ragged) errno = 'EINVAL';
  else if (group >= 0 && g?.node !== node) errno = 'EINVAL';
  else if (node === 3) errno = 'EINVAL';

  const before = freeIn(m, (z) => z !== ZONE_MOVABLE);
  const done = m.addMemory({ start: toPfn(start), end: toPfn(end) }, toNodeId(node), options);
  const what = `add ${first}+${count} node ${node} ${asked} ${errno}`;
  if (errno === undefined && !done.ok && done.error.errno === 'ENOMEM') {
    // Struct pages of 2 MiB a section, else 512 single frames and a table; a few page tables.
    expect(before, what).toBeLessThan((policy === 'kernel' ? count * (PAGEBLOCK_PAGES + 1) : 0) + 4);
    return 'add ENOMEM';
  }
  expect(done.ok ? undefined : done.error.errno, what).toBe(errno);
  if (!done.ok) return `add ${errno}`;
  expect(done.value.memmap, what).toBe(policy);
  if (m.hotplug.settings.autoOnline === 'offline') {
    expect(before - freeIn(m, (z) => z !== ZONE_MOVABLE), what).toBe(done.value.kernelPages);
  }
  const range = model.next++;
  const line = model.next++;
  model.names.set(line, driverManaged ?? 'System RAM');
  model.ranges.set(range, { name: driverManaged ?? 'System RAM', first, end: first + count, policy });
  let left = unbackedTail;
  for (let k = count - 1; k >= 0; k--) {
    const unbacked = Math.min(left, S);
    left -= unbacked;
    const rest = { node, group, early: false, range, policy, zone: undefined, poisoned: 0 };
    model.blocks.set(ids[k], { ...rest, head: heads[k], unbacked });
    model.lines.set(ids[k], line);
  }
  if (merge) mergeLine(w, line);
  model.nodes.add(node);
  const how = ONLINE[m.hotplug.settings.autoOnline];
  if (how !== undefined) {
    for (const id of ids) {
      const b = model.blocks.get(id) as Block;
      model.online(id, model.zones.zoneFor(how, b.node, b.group, id * S, S));
    }
    expect(done.value.onlined, what).toEqual(ids);
  }
  return `add ${policy}`;
}

/** Lines that asked for merging carry a negative number. */
function mergeLine(w: World, line: number): void {
  const { model } = w;
  const own = -line;
  model.names.set(own, model.names.get(line) as string);
  for (const [id, l] of model.lines) if (l === line) model.lines.set(id, own);
  const join = (id: number, other: number): boolean => {
    const a = model.lines.get(id);
    const b = model.lines.get(other);
    if (a !== own || b === undefined || b === own || b > 0 || model.names.get(b) !== model.names.get(own)) return false;
    for (const [k, l] of model.lines) if (l === b) model.lines.set(k, own);
    return true;
  };
  for (let again = true; again; ) {
    again = [...model.lines.keys()].some((id) => join(id, id - 1) || join(id, id + 1));
  }
}

function removeEvent(w: World): string {
  const { prng, m, model } = w;
  let first = prng.below(LAST_BLOCK);
  let end = first + 1 + prng.below(4);
  const added = [...model.ranges.values()];
  if (added.length > 0 && prng.chance(0.85)) {
    // Most are online somewhere, which ends it early: those that are not are preferred.
    const offline = (r: Range): boolean =>
      Array.from({ length: r.end - r.first }, (_, k) => model.blocks.get(r.first + k)).every(
        (b) => b?.zone === undefined,
      );
    const idle = added.filter(offline);
    ({ first, end } = prng.pick(idle.length > 0 && prng.chance(0.6) ? idle : added));
    if (prng.chance(0.4)) first += prng.below(end - first);
    if (prng.chance(0.4)) end -= prng.below(end - first);
    if (prng.chance(0.1)) end += 1;
  }
  const ids = Array.from({ length: end - first }, (_, k) => first + k);
  const blocks = ids.map((id) => model.blocks.get(id));
  const heads = blocks.map((b) => (b?.head ?? 0) > 0);
  const selfRange = blocks.some((b) => b?.policy === 'self-range');
  const cut = [...model.ranges.values()].some(
    (r) => r.policy === 'self-range' && r.first < end && first < r.end && (r.first < first || r.end > end),
  );
  let errno: ErrnoName | undefined;
  if (blocks.some((b) => b === undefined)) errno = 'ENOENT';
  else if (blocks.some((b) => b?.zone !== undefined)) errno = 'EBUSY';
  else if ((!selfRange && heads.some((h) => h !== heads[0])) || cut) errno = 'EINVAL';
  const before = freeIn(m, () => true);
  const done = m.removeMemory({ start: toPfn(first * S), end: toPfn(end * S) });
  const what = `remove ${first}-${end}`;
  expect(done.ok ? undefined : done.error.errno, what).toBe(errno);
  if (!done.ok) return `remove ${errno}`;
  expect(freeIn(m, () => true) - before, what).toBe(done.value.kernelPages);
  for (const id of ids) {
    model.blocks.delete(id);
    model.lines.delete(id);
  }
  // A line that was cut in two is two lines; both may merge still.
  for (const line of new Set(model.lines.values())) {
    const after = [...model.lines].filter(([id, l]) => l === line && id >= end);
    const split = after.length > 0 && [...model.lines].some(([id, l]) => l === line && id < first);
    if (!split) continue;
    const other = (line < 0 ? -1 : 1) * model.next++;
    model.names.set(other, model.names.get(line) as string);
    for (const [id] of after) model.lines.set(id, other);
  }
  for (const [key, r] of [...model.ranges]) {
    const part = (a: number, b: number): void => {
      if (a < b) model.ranges.set(model.next++, { ...r, first: a, end: b });
    };
    if (r.end <= first || end <= r.first) continue;
    model.ranges.delete(key);
    part(r.first, Math.min(r.end, first));
    part(Math.max(r.first, end), r.end);
  }
  for (const node of [...model.nodes]) {
    const spans = [...model.zones.zones].some(([key, z]) => key.startsWith(`${node}/`) && z.end > z.start);
    if (node === 2 && !spans && ![...model.blocks.values()].some((b) => b.node === 2)) model.nodes.delete(2);
  }
  return 'remove';
}

function onlineEvent(w: World): string {
  const { prng, m, model, kernel } = w;
  const offline = [...model.blocks.keys()].filter((k) => model.blocks.get(k)?.zone === undefined);
  const any = prng.chance(0.3) || offline.length === 0;
  const id = prng.chance(0.1) ? prng.below(LAST_BLOCK) : prng.pick(any ? [...model.blocks.keys()] : offline);
  const how = prng.pick(['online', 'online', 'kernel', 'movable'] as const);
  const b = model.blocks.get(id);
  let errno: ErrnoName | undefined;
  if (b === undefined) errno = 'ENOENT';
  else if (b.zone !== undefined) errno = 'EINVAL';
  else if (b.poisoned > 0 && kernel !== '6.1') errno = 'EHWPOISON';
  const zone = b === undefined ? -1 : model.zones.zoneFor(how, b.node, b.group, id * S, S);
  const done = m.online(toBlockId(id), how);
  const what = `online ${id} ${how}`;
  expect(done.ok ? undefined : done.error.errno, what).toBe(errno);
  if (!done.ok || b === undefined) return `online ${errno}`;
  expect(done.value, what).toEqual({ block: id, zone: ZONE_NAMES[zone], pages: S - b.head - b.unbacked });
  model.online(id, zone);
  return 'online';
}

function offlineEvent(w: World): string {
  const { prng, m, model } = w;
  const id = prng.chance(0.1) ? prng.below(LAST_BLOCK) : prng.pick([...model.blocks.keys()]);
  const b = model.blocks.get(id);
  const used = b === undefined ? { movable: 0, fixed: 0 } : usedIn(w, id);
  const guests = [...model.blocks].filter(([k, o]) => k !== id && o.range === b?.range && o.zone !== undefined);
  let errno: ErrnoName | undefined;
  if (b === undefined) errno = 'ENOENT';
  else if (b.zone === undefined) errno = 'EINVAL';
  else if (used.fixed > 0)
    errno = 'EBUSY'; // no kernel page is ever in Movable: checked with the holders
  else if (b.policy === 'self-range' && b.head > 0 && guests.length > 0) errno = 'EBUSY'; // HB3: it hosts their memmap
  // Room for what moves: other nodes with memory, else the own; never from a kernel zone into Movable.
  const others = m.pools.some((p) => p.node !== b?.node && p.managed > 0);
  let room = 0;
  for (const p of m.pools) {
    if (others === (p.node === b?.node) || (b?.zone !== ZONE_MOVABLE && p.zone === ZONE_MOVABLE)) continue;
    room += p.alloc.nrFree() + p.alloc.pcpPages();
  }
  if (!others && b?.zone !== undefined) room -= model.managed(b) - used.movable; // its own free frames go with it
  const done = m.offline(toBlockId(id));
  const what = `offline ${id}`;
  if (errno === undefined && !done.ok && done.error.errno === 'EINTR') {
    expect(room, what).toBeLessThan(used.movable);
    return 'offline EINTR';
  }
  expect(done.ok ? undefined : done.error.errno, what).toBe(errno);
  if (!done.ok) return `offline ${errno}`;
  expect(done.value.migratedPages, what).toBe(used.movable);
  model.offline(id);
  return used.movable > 0 ? 'offline with moves' : 'offline';
}

function allocEvent(w: World): string {
  const { prng, m } = w;
  const { id, cls } = prng.pick(w.holders);
  const order = prng.weighted([6, 2, 2, 1, 1, 0, 1, 0, 0, 2, 1]);
  const node = prng.pick([...w.model.nodes]);
  const n = 1 + prng.below(40 * w.hunger);
  for (let k = 0; k < n; k++) {
    const pfn = m.alloc(id, toOrder(order), { node: toNodeId(node) });
    if (pfn < 0) return 'alloc ENOMEM';
    const b = w.model.blocks.get(Math.floor(pfn / S));
    expect(b?.zone, `${cls} at ${pfn}`).toBeDefined();
    if (CLASS_TRAITS[cls].topZone !== ZONE_MOVABLE) expect(b?.zone, `${cls} at ${pfn}`).not.toBe(ZONE_MOVABLE);
    expect(pfn % S, `${cls} at ${pfn}: in a head`).toBeGreaterThanOrEqual(b?.head ?? 0);
  }
  return 'alloc';
}

function freeEvent(w: World): string {
  const { prng, m } = w;
  const { id } = prng.pick(w.holders);
  const heads: number[] = [];
  m.forEachFrameOf(id, (pfn) => {
    heads.push(pfn);
  });
  const share = prng.pick([0.2, 0.5, 1]) / w.hunger;
  for (const pfn of heads) if (prng.chance(share)) m.free(toPfn(pfn));
  return 'free';
}

/** A free frame of an online block turns bad. */
function poisonEvent(w: World): string {
  const { prng, m, model } = w;
  const id = prng.pick([...model.blocks.keys()]);
  const b = model.blocks.get(id) as Block;
  const info = m.block(toBlockId(id));
  const pool = info?.pool;
  if (pool === undefined) return 'poison nothing';
  pool.alloc.drain();
  const from = m.sections.indexOf(toPfn(id * S)) - pool.base;
  const chunks: [number, number][] = [];
  pool.alloc.area.forEachFree(from, from + S, (i, order) => {
    chunks.push([i, order]);
  });
  if (chunks.length === 0) return 'poison nothing';
  const [i, order] = prng.pick(chunks);
  pool.alloc.take(i, order);
  const bad = i + prng.below(2 ** order);
  for (let k = i; k < i + 2 ** order; k++) if (k !== bad) pool.alloc.freeToArea(k, 0);
  const holder = m.holders.specs.findIndex((s) => s.class === 'poisoned');
  const owner = holder >= 0 ? holder : m.addHolder({ class: 'poisoned', name: 'hardware error' });
  m.occupy(owner, pool.base + bad, 0);
  b.poisoned++;
  return 'poison';
}

function settingEvent(w: World): string {
  const { prng, m, model } = w;
  const { settings } = m.hotplug;
  const { params } = model.zones;
  settings.autoOnline = prng.pick(AUTO_ONLINE);
  settings.onlinePolicy = params.policy = prng.pick(['contig-zones', 'auto-movable']);
  settings.autoMovable.ratio = params.ratio = prng.pick([0, 50, 100, 301]);
  settings.memmapOnMemory = prng.chance(0.8) ? 'Y' : 'N';
  return 'setting';
}

function copyEvent(w: World): string {
  const { prng, m } = w;
  const kind = prng.below(3);
  if (kind === 0) {
    w.m = m.fork();
    expect(w.m.digest()).toBe(m.digest());
    w.saved = undefined; // a snapshot is of the machine it was taken from
    return 'fork';
  }
  if (kind === 1 || w.saved === undefined) {
    w.saved = { snapshot: m.snapshot(), model: w.model.clone(), holders: w.holders };
    return 'snapshot';
  }
  m.restore(w.saved.snapshot);
  w.model = w.saved.model.clone();
  expect(m.digest()).toBe(w.saved.snapshot.image.digest());
  return 'restore';
}

const EVENTS: readonly (readonly [weight: number, run: (w: World) => string])[] = [
  [14, addEvent],
  [12, removeEvent],
  [20, onlineEvent],
  [20, offlineEvent],
  [12, allocEvent],
  [8, freeEvent],
  [5, poisonEvent],
  [2, settingEvent],
  [3, copyEvent],
];

// ------------------------------------------------------------------------------------------------------ comparison

function compare(w: World, where: string): void {
  const { m, model } = w;
  expect(m.blockIds(), where).toEqual([...model.blocks.keys()].sort((a, b) => a - b));
  expect(new Set(m.nodes), where).toEqual(model.nodes);
  const managed = new Map<string, number>();
  for (const [id, b] of model.blocks) {
    const key = `${b.node}/${b.zone}`;
    if (b.zone !== undefined) managed.set(key, (managed.get(key) ?? 0) + model.managed(b));
    const info = m.block(toBlockId(id));
    expect([info?.state, info?.node, info?.pool?.zone], `${where} block ${id}`).toEqual([
      b.zone === undefined ? 'offline' : 'online',
      b.node,
      b.zone,
    ]);
    const zones = b.zone === undefined ? model.zones.validZones(b.node, b.group, id * S, S) : ZONE_NAMES[b.zone];
    expect(m.validZones(toBlockId(id)).join(' '), `${where} valid_zones of ${id}`).toBe(zones);
  }
  const balloon = new Map<string, number>();
  for (const { id, cls } of w.holders) {
    if (CLASS_TRAITS[cls].managed) continue;
    m.forEachFrameOf(id, (pfn, order) => {
      const b = model.blocks.get(Math.floor(pfn / S)) as Block;
      balloon.set(`${b.node}/${b.zone}`, (balloon.get(`${b.node}/${b.zone}`) ?? 0) + 2 ** order);
    });
  }
  for (const p of m.pools) {
    const key = `${p.node}/${p.zone}`;
    const z = model.zones.zone(p.node, p.zone);
    expect([p.startPfn, p.endPfn, p.present, p.presentEarly, p.managed], `${where} ${p.title}`).toEqual([
      z.start,
      z.end,
      z.present,
      z.early,
      (managed.get(key) ?? 0) - (balloon.get(key) ?? 0),
    ]);
  }
  model.zones.groups.forEach((g, id) => {
    const blocks = [...model.blocks.values()].filter((b) => b.group === id).length;
    expect(m.hotplug.groups.get(id), `${where} group ${id}`).toMatchObject({
      blocks,
      presentKernel: g?.kernel,
      presentMovable: g?.movable,
    });
  });
  const lines: string[] = [];
  m.hotplug.resources.forEach((r) => {
    lines.push(`${r.start}-${r.end} ${r.name}`);
  });
  expect(lines, `${where} iomem`).toEqual(model.iomem());
  expect(
    m.hotplug.ranges.map((r) => [r.start / S, r.end / S, r.policy]),
    `${where} adds`,
  ).toEqual([...model.ranges.values()].sort((a, b) => a.first - b.first).map((r) => [r.first, r.end, r.policy]));
  // Free is what is managed and in nobody's hands; a poisoned frame in an offline block is not managed.
  let held = 0;
  for (let h = 0; h < m.holders.length; h++) {
    if (!CLASS_TRAITS[m.holders.specs[h].class].managed) continue;
    m.forEachFrameOf(h as HolderId, (pfn, order) => {
      const b = model.blocks.get(Math.floor(pfn / S)) as Block;
      if (b.zone === undefined || (b.policy === 'self-block' && pfn % S < b.head)) return;
      held += 2 ** order;
    });
  }
  const all = m.pools.reduce((n, p) => n + p.managed, 0);
  expect(
    freeIn(m, () => true),
    `${where} free`,
  ).toBe(all - held);
}

function run(seed: number): Map<string, number> {
  const w = worldOf(seed);
  const weights = EVENTS.map(([weight]) => weight);
  for (let step = 0; step < OPS; step++) {
    const kind = w.prng.weighted(weights);
    const where = `seed=${seed} step=${step}`;
    let what = EVENTS[kind][1].name;
    try {
      what = EVENTS[kind][1](w);
      compare(w, what);
      const violations = w.m.check(step % 25 === 24 ? 3 : 1);
      expect(violations, what).toEqual([]);
    } catch (e) {
      throw new Error(`${where} (${w.kernel}): ${what}: ${e instanceof Error ? e.message : e}`, { cause: e });
    }
    w.seen.set(what, (w.seen.get(what) ?? 0) + 1);
  }
  expect(w.m.check(), `seed=${seed}`).toEqual([]);
  return w.seen;
}

it("LF1 whatever memory goes through, blocks, zones, counters, addresses and refusals are the model's", () => {
  const only = process.env.DIMMER_SEED;
  if (only !== undefined) {
    run(Number(only));
    return;
  }
  const seen = new Map<string, number>();
  for (let seed = 1; seed <= SEEDS; seed++)
    for (const [what, n] of run(seed)) seen.set(what, (seen.get(what) ?? 0) + n);
  if (process.env.DIMMER_SEEN !== undefined) console.log(Object.fromEntries(seen));
  const wanted = [
    ...['add kernel', 'add self-block', 'add self-range', 'add EEXIST', 'add EINVAL', 'remove', 'remove EBUSY'],
    ...['remove ENOENT', 'remove EINVAL', 'online', 'online EINVAL', 'online EHWPOISON', 'offline', 'offline EBUSY'],
    ...[
      'offline EINVAL',
      'offline with moves',
      'offline EINTR',
      'add ENOMEM',
      'alloc ENOMEM',
      'fork',
      'restore',
      'poison',
    ],
  ];
  for (const what of wanted) expect(seen.get(what) ?? 0, what).toBeGreaterThan(0);
});
