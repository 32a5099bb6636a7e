// Operations: what can happen to a world in one step. Each is small, picks its victims by chance, and says what it did.
//
//   alloc free     1 to 16 allocations of any order       pin, dirty, writeback    a page's state changes
//   begin-move finish-move abort-move                     migration in two steps
//   add online remove                                     DIMMs come, come online, go
//   offline pull step cancel                              a block, or a DIMM, leaves, interleaved with everything
//   compact compact-step                                  two scanners over a zone, in steps, or direct compaction
//   kremap-move kremap-home                               kernel pages move, and come home
//   memmap-move                                           struct pages move
//   area release dma                                      drivers ask for fixed areas, give them back; devices write
//   relinquish                                            drivers are asked to leave a range
//   offline-now                                           an offline that nobody interrupts
//   fork                                                  a copy equals the machine, and lives on its own
//
// An operation that does not apply says so with undefined, and the step was idle.

import { assert } from '#base/assert';
import type { Prng } from '#base/prng';
import { type BlockId, type Pfn, toBlockId, toOrder, toPfn } from '#base/units';
import { CompactWork } from '#mm/compaction/compact-zone';
import { DimmWork } from '#mm/dimm-offline';
import { addBuffer, runDevices } from '#mm/fixed-areas/device-model';
import { fixedAreas } from '#mm/fixed-areas/fixed-areas';
import { MEMMAP_WISHES, type MemmapWish, type MemoryRange, PAGES_PER_SECTION, type Refusal } from '#mm/index';
import { kremap } from '#mm/kremap/kremap';
import { moveMemmap } from '#mm/memmap-move';
import { abortMove, beginMove, finishMove, offlineTargets } from '#mm/migrate';
import type { Pool } from '#mm/pool';
import { META_PINNED } from '#mm/section';
import type { Entry } from './ledger.ts';
import type { Slot, World } from './world.ts';

export type Operation = {
  readonly name: string;
  /** How likely, beside the others; scaled by chance in each world. */
  readonly weight: number;
  /** Does it. @returns what it did, for the log; undefined when it does not apply */
  run(w: World): string | undefined;
};

const ORDERS = [0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 6, 9, 9, 10];

const pfnOf = (w: World, e: Entry): Pfn => w.m.sections.pfnOf(e.head);
const text = (r: { readonly ok: boolean; readonly error?: Refusal }): string => (r.ok ? 'done' : `${r.error?.reason}`);

/** Frames that are free, of all that are managed. */
function freeShare(w: World): number {
  let free = 0;
  let managed = 0;
  for (const p of w.m.zones) {
    free += p.alloc.nrFree();
    managed += p.managed;
  }
  return managed === 0 ? 0 : free / managed;
}

function alloc(w: World): string | undefined {
  const { m, prng } = w;
  const holder = w.user();
  const order = prng.pick(ORDERS);
  const count = 1 + prng.below(order > 4 ? 3 : 48);
  if (freeShare(w) < 1 - w.hunger) return free(w);
  let got = 0;
  for (let k = 0; k < count; k++) {
    const pfn = m.alloc(holder, toOrder(order));
    if (pfn < 0) break;
    got++;
    stamp(w, pfn as Pfn);
  }
  return `alloc ${got} of ${count} of order ${order} for ${m.holders.specs[holder]?.name}`;
}

/** With contents: a number that has to be found there wherever it moves. */
function stamp(w: World, pfn: Pfn): void {
  const { m, ledger } = w;
  if (m.spec.contents !== 'bytes') return;
  const entry = ledger.entries.get(m.sections.indexOf(pfn)) as Entry; // the ledger was told
  entry.stamp = ++w.stamps;
  m.write(pfn, 8, stampBytes(entry.stamp));
}

export const stampBytes = (n: number): Uint8Array => new Uint8Array(new Float64Array([n]).buffer);

function free(w: World): string | undefined {
  const count = 1 + w.prng.below(48);
  let done = 0;
  for (; done < count; done++) {
    const e = w.ledger.pick(w.prng);
    if (e === undefined) break;
    w.m.free(pfnOf(w, e));
  }
  return done === 0 ? undefined : `free ${done}`;
}

function state(w: World): string | undefined {
  const e = w.ledger.pick(w.prng);
  if (e === undefined) return undefined;
  const pfn = pfnOf(w, e);
  const pinned = (w.m.sections.metaAt(e.head) & META_PINNED) !== 0;
  switch (w.prng.below(6)) {
    case 0:
      if (!w.prng.chance(0.2)) break; // few pins, or nothing could ever go
      w.m.pin(pfn);
      return `pin ${pfn}`;
    case 1:
      w.m.setPageFlags(pfn, { writeback: true, dirty: true });
      return `writeback ${pfn} begins`;
    case 2:
      w.m.setPageFlags(pfn, { dirty: true });
      return `dirty ${pfn}`;
    case 3:
      w.m.setPageFlags(pfn, { unevictable: w.prng.chance(0.5) });
      return `mlock ${pfn}`;
    default:
      break;
  }
  w.m.setPageFlags(pfn, { writeback: false, dirty: false });
  if (pinned) w.m.unpin(pfn);
  return `${pfn} is clean and unpinned`;
}

/** Pins and writeback end everywhere, as they do in time. */
export function settle(w: World): string {
  let n = 0;
  for (const e of w.ledger.own) {
    const pfn = pfnOf(w, e);
    w.m.setPageFlags(pfn, { writeback: false });
    if ((w.m.sections.metaAt(e.head) & META_PINNED) === 0) continue;
    w.m.unpin(pfn);
    n++;
  }
  return `${n} pins end, and all writeback`;
}

// ------------------------------------------------------------------------------------------------------- migration

function beginOne(w: World): string | undefined {
  const { m, moves } = w;
  const e = w.ledger.pick(w.prng);
  if (e === undefined || moves.length >= 8) return undefined;
  const pool = m.poolAt(e.head) as Pool; // what is in use is online
  const begun = beginMove(m, e.head, offlineTargets(m, pool), w.prng.pick(['async', 'sync-light', 'sync']));
  if (begun.ok) moves.push(begun.value);
  return `move of ${pfnOf(w, e)}: ${begun.ok ? 'begun' : begun.error}`;
}

function finishOne(w: World): string | undefined {
  const move = w.moves.splice(w.prng.below(Math.max(1, w.moves.length)), 1)[0];
  return move === undefined ? undefined : `move from ${move.from}: ${finishMove(w.m, move)}`;
}

function abortOne(w: World): string | undefined {
  const move = w.moves.pop();
  if (move === undefined) return undefined;
  abortMove(w.m, move);
  return `move from ${move.from} is given up`;
}

// --------------------------------------------------------------------------------------------------------- hotplug

export const isPresent = (w: World, slot: Slot): boolean => w.m.block(blockIds(w, slot)[0] as BlockId) !== undefined;

export function blockIds(w: World, { range }: Slot): BlockId[] {
  const first = range.start / w.m.blockPages;
  return Array.from({ length: (range.end - range.start) / w.m.blockPages }, (_, k) => toBlockId(first + k));
}

function add(w: World): string | undefined {
  if (w.busy) return undefined;
  const slot = w.prng.pick(w.slots);
  if (isPresent(w, slot)) return undefined;
  const memmap: MemmapWish = w.prng.pick(MEMMAP_WISHES);
  const added = w.m.addMemory(slot.range, slot.node, { memmap });
  return `add ${slot.range.start} to node ${slot.node}, ${memmap}: ${text(added)}`;
}

function online(w: World): string | undefined {
  if (w.busy) return undefined;
  const offline = w.m.blockIds().filter((id) => w.m.block(id)?.state === 'offline');
  if (offline.length === 0) return undefined;
  const id = w.prng.pick(offline);
  const how = w.prng.pick(['online', 'kernel', 'movable'] as const);
  return `online block ${id} ${how}: ${text(w.m.online(id, how))}`;
}

function remove(w: World): string | undefined {
  if (w.busy) return undefined;
  const slot = w.prng.pick(w.slots);
  if (!isPresent(w, slot)) return undefined;
  return `remove ${slot.range.start}: ${text(w.m.removeMemory(slot.range))}`;
}

/** Any block: boot memory too, which refuses or goes. */
function anyBlock(w: World, prng: Prng): BlockId {
  const slot = prng.pick(w.slots);
  return prng.chance(0.8) && isPresent(w, slot) ? prng.pick(blockIds(w, slot)) : prng.pick(w.m.blockIds());
}

const rangeOf = (w: World, id: BlockId): MemoryRange => ({
  start: toPfn(id * w.m.blockPages),
  end: toPfn((id + 1) * w.m.blockPages),
});

/** A whole DIMM, all blocks at once. */
function pull(w: World): string | undefined {
  const slots = w.slots.filter((s) => isPresent(w, s));
  if (w.busy || slots.length === 0) return undefined;
  const { range } = w.prng.pick(slots);
  const evictors = w.someEvictors();
  w.workOn = { name: `DIMM at ${range.start}`, range };
  w.work = new DimmWork(w.m, range, {
    evictors,
    all: w.prng.chance(0.3),
    keep: w.prng.chance(0.2),
    order: w.prng.pick(['worst-first', 'ascending', 'descending']),
    offline: { batch: w.prng.pick([1, 8, 32]) },
  });
  return `removal of the DIMM at ${range.start} begins, with ${evictors.map((e) => e.name).join(' ') || 'nobody'}`;
}

function offline(w: World): string | undefined {
  if (w.busy) return undefined;
  const id = anyBlock(w, w.prng);
  const evictors = w.someEvictors();
  w.workOn = { name: `block ${id}`, range: rangeOf(w, id) };
  w.work = w.m.beginOffline(id, { evictors, batch: w.prng.pick([1, 4, 32]), rounds: w.prng.pick([1, 2, 4]) });
  return `offline of block ${id} begins, with ${evictors.map((e) => e.name).join(' ') || 'nobody'}`;
}

function step(w: World): string | undefined {
  const { work } = w;
  if (work === undefined) return undefined;
  const before = work.stage;
  for (let k = w.prng.below(8); k >= 0 && !work.finished; k--) work.step();
  if (work.finished) w.work = undefined;
  return `${w.workOn?.name}: ${before} to ${work.stage} ${work.refusal?.reason ?? ''}`;
}

function cancel(w: World): string | undefined {
  const { work } = w;
  if (work === undefined || !w.prng.chance(0.2)) return undefined;
  work.cancel();
  w.work = undefined;
  return `${w.workOn?.name} is cancelled`;
}

/** In compat strict a refusal restores everything, by a copy: the ledger was told of moves that never were. */
function offlineNow(w: World): string | undefined {
  if (w.busy || w.moves.length > 0) return undefined;
  const id = anyBlock(w, w.prng);
  const strict = w.m.spec.compat !== 'linux';
  const before = strict ? w.m.digest() : '';
  const fork = strict ? w.m.fork() : w.m;
  const done = fork.offline(id, { evictors: w.someEvictors() });
  if (strict && !done.ok) {
    assert(fork.digest() === before, 'a refusal leaves the machine as it was', {
      block: id,
      reason: done.error.reason,
    });
  }
  return `offline of block ${id} at once${strict ? ', on a copy' : ''}: ${text(done)}`;
}

// ------------------------------------------------------------------------------------------------------ compaction

function compact(w: World): string | undefined {
  const { m, prng } = w;
  if (w.compaction !== undefined) return undefined;
  const pool = prng.pick(m.zones);
  w.compaction = new CompactWork(m, pool, {
    order: prng.pick([-1, 2, 4, 9, 9, 10]),
    mode: prng.pick(['async', 'sync-light', 'sync']),
    wholeZone: prng.chance(0.5),
    ignoreSkip: prng.chance(0.3),
    perCpuLists: prng.pick(['drained', 'off']),
  });
  return `compaction of ${pool.title} begins`;
}

function compactStep(w: World): string | undefined {
  const work = w.compaction;
  if (work === undefined) return undefined;
  for (let k = w.prng.below(16); k >= 0 && !work.finished; k--) work.step(w.prng.pick(['page', 'cluster']));
  if (work.finished) w.compaction = undefined;
  return `compaction: ${work.moved} moved, ${work.result ?? 'goes on'}`;
}

// ----------------------------------------------------------------------------------------------- kernel memory moves

function kremapMove(w: World): string | undefined {
  const e = w.ledger.pick(w.prng);
  if (e === undefined) return undefined;
  const pfn = pfnOf(w, e);
  return `kremap.move ${pfn}: ${text(kremap(w.m).move(pfn))}`;
}

function kremapHome(w: World): string | undefined {
  const id = w.prng.pick(w.m.blockIds());
  const start = id * w.m.blockPages;
  const home = kremap(w.m).home({ start: toPfn(start), end: toPfn(start + w.m.blockPages) });
  return `kremap.home block ${id}: ${home.pages} pages, ${home.left} stay`;
}

function memmapMove(w: World): string | undefined {
  if (w.busy) return undefined;
  const slots = w.slots.filter((s) => isPresent(w, s));
  if (slots.length === 0) return undefined;
  const id = w.prng.pick(blockIds(w, w.prng.pick(slots)));
  const policy = w.prng.pick(MEMMAP_WISHES);
  return `memmap.move block ${id} ${policy}: ${text(moveMemmap(w.m, id, { policy }))}`;
}

// --------------------------------------------------------------------------------------------------------- drivers

function area(w: World): string | undefined {
  const areas = fixedAreas(w.m).areas();
  if (areas.length >= 24) return undefined;
  const device = w.prng.pick(w.devices);
  const bytes = 4096 * (1 + w.prng.below(24));
  const rule = w.prng.chance(0.3) ? { addrMax: { bits: 32 } } : {};
  return `${device} asks for ${bytes}: ${text(addBuffer(w.m, device, { bytes, rule, reason: 'ring' }))}`;
}

/** A driver takes an area again that it gave up, or gives it up for good: its device does not know it any more. */
function release(w: World): string | undefined {
  const a = fixedAreas(w.m)
    .areas()
    .find((x) => x.state === 'RELEASED');
  if (a === undefined) return undefined;
  const handle = { id: a.id, generation: a.generation };
  if (w.prng.chance(0.7)) return `${a.driver} reacquires area ${a.id}: ${text(fixedAreas(w.m).reacquire(handle))}`;
  return `${a.driver} releases area ${a.id}: ${text(fixedAreas(w.m).release(handle))}`;
}

function dma(w: World): string {
  const ms = 1 + w.prng.below(4);
  runDevices(w.m, ms, w.monitor);
  return `${ms} ms of DMA`;
}

function relinquish(w: World): string | undefined {
  const areas = fixedAreas(w.m).areas();
  if (areas.length === 0) return undefined;
  const pfn = w.prng.pick(areas).segments[0]?.start;
  if (pfn === undefined) return undefined;
  const start = pfn - (pfn % PAGES_PER_SECTION);
  const on = w.busy ? w.workOn?.range : undefined;
  if (on !== undefined && on.start <= start && start < on.end) return undefined;
  return `relinquish section at ${start}: ${relinquishRange(w, start)}`;
}

function relinquishRange(w: World, start: number): string {
  const range = { start: toPfn(start), end: toPfn(start + 512 * (1 + w.prng.below(8))) };
  const mode = w.prng.pick(['move', 'drop', 'ask'] as const);
  return `${mode} ${text(fixedAreas(w.m).relinquish(range, { deadlineMs: w.prng.pick([0, 5, 50]), mode, clock: w.clock }))}`;
}

// ---------------------------------------------------------------------------------------------------------- copies

function fork(w: World): string {
  const copy = w.m.fork();
  assert(copy.digest() === w.m.digest(), 'a copy equals its original');
  return 'a copy equals the machine';
}

/** In the order of the table at the top of this file. */
export const OPERATIONS: readonly Operation[] = [
  { name: 'alloc', weight: 200, run: alloc },
  { name: 'free', weight: 180, run: free },
  { name: 'state', weight: 80, run: state },
  { name: 'settle', weight: 4, run: settle },
  { name: 'begin-move', weight: 40, run: beginOne },
  { name: 'finish-move', weight: 40, run: finishOne },
  { name: 'abort-move', weight: 6, run: abortOne },
  { name: 'add', weight: 8, run: add },
  { name: 'online', weight: 16, run: online },
  { name: 'remove', weight: 8, run: remove },
  { name: 'offline', weight: 16, run: offline },
  { name: 'pull', weight: 12, run: pull },
  { name: 'step', weight: 240, run: step },
  { name: 'cancel', weight: 4, run: cancel },
  { name: 'offline-now', weight: 1, run: offlineNow },
  { name: 'compact', weight: 4, run: compact },
  { name: 'compact-step', weight: 40, run: compactStep },
  { name: 'kremap-move', weight: 10, run: kremapMove },
  { name: 'kremap-home', weight: 2, run: kremapHome },
  { name: 'memmap-move', weight: 6, run: memmapMove },
  { name: 'area', weight: 10, run: area },
  { name: 'release', weight: 8, run: release },
  { name: 'dma', weight: 30, run: dma },
  { name: 'relinquish', weight: 3, run: relinquish },
  { name: 'fork', weight: 0.2, run: fork },
];
