// Adding planned: so much memory on a node, and what has to be true before.
//
//   asked first       whole memory blocks? a node that may have memory? a free slot, room below maxmem, addresses?
//   candidates        a virtio-mem device of the node with room: finer, and it shrinks again      preferred when it fits
//                     DIMMs: as large as the memmap budget allows, one after the other
//
//   one DIMM's unit   [auto_online_blocks: offline] add ─> online each block, in the zone asked [auto_online_blocks: as it was]
//                          └── only where the guest would bring the blocks up elsewhere: a one-way door
//
// Every DIMM is added on the fork, its struct pages taken from what is free there, its blocks brought online, before the next
// one is looked at: what does not fit is not planned. The largest DIMM that leaves the watermarks kept is found by halving.
//
// Said beforehand, as warnings: what the memmap takes; the ratio of Movable to kernel memory afterwards; that memory in a
// kernel zone does not come out again.
//
// Spec 1.7 to 1.9, 1.13, 4, 5.4, 7.1; lab facts 3, 12, 13, 15, 16.

import { formatSize, plural } from '#base/format';
import type { Result } from '#base/result';
import {
  type Machine,
  type MemoryRange,
  PAGE_SIZE,
  plugDimm,
  type Refusal,
  toBlockId,
  toNodeId,
  toPfn,
} from '#mm/index';
import { firstFit, freeSlots, roomBelowMax } from './device-addresses.ts';
import { sizeWord } from './goal.ts';
import { dropCleanCache, keepsMarks, memmapBudget } from './memmap-budget.ts';
import { blocksWithin, type DimmSeen, type HypervisorSeen, type VirtioMemSeen } from './observation.ts';
import type { Goal, Plan, Rejected } from './plan.ts';
import {
  can,
  type PlanInput,
  type PlanOptions,
  planOf,
  type StepDraft,
  twoLooks,
  type UnitDraft,
} from './plan-input.ts';
import { nameless } from './plan-virtio-mem.ts';
import { AUTO_MOVABLE_RATIO, movableRatio, movableRoom } from './ratio.ts';
import { addDimmStep, autoOnlineStep, onlineStep, sumMs, virtioMemStep } from './steps.ts';

type AddGoal = Extract<Goal, { verb: 'add' }>;
type Zone = 'movable' | 'kernel';

/** What an addition came to; `machine` is the fork with it done. */
export type Added = {
  readonly units: readonly UnitDraft[];
  readonly bytes: number;
  readonly warnings: readonly string[];
  readonly rejected: readonly Rejected[];
  readonly machine: Machine | undefined;
};

export function planAdd(goal: AddGoal, input: PlanInput, options: PlanOptions = {}): Plan {
  const infeasible = (summary: string): Plan => planOf(goal, input, { feasible: false, summary });
  const what = `size:${formatSize(goal.bytes)} node:${goal.node}`;
  const refused = twoLooks(input) ?? cannotAdd(input, goal.bytes, goal.node);
  if (refused !== undefined) return infeasible(refused);
  const added = chooseAddition(input, options, goal.bytes, goal.node);
  const steps = added.units.flatMap((u) => u.steps);
  const feasible = added.bytes >= goal.bytes;
  const does = `${formatSize(added.bytes)} by ${plural(added.units.length, 'unit')}, ${plural(steps.length, 'step')}, ${Math.round(sumMs(steps))} ms predicted`;
  const [first] = added.rejected;
  const summary = feasible
    ? `${what}: ${does}`
    : `${what} cannot be added${added.bytes === 0 ? '' : ` in full (${does})`}: ${first?.reason ?? 'nothing fits'}`;
  return planOf(goal, input, { feasible, summary, ...added });
}

/** One sentence about what no candidate could change. */
export function cannotAdd(input: PlanInput, bytes: number, node: number): string | undefined {
  const { observation: o, twin } = input;
  if (o.hypervisor === undefined) {
    const offline = o.blocks.filter((b) => b.state === 'offline' && b.nodes.includes(node)).length;
    const hint =
      offline === 0
        ? ''
        : `; ${plural(offline, 'block')} of node ${node} are in the machine and offline: they can come online`;
    return `memory is added by a hypervisor, and none is asked here${hint}`;
  }
  if (bytes <= 0) return 'nothing is to be added';
  const nodes = [...new Set(o.blocks.flatMap((b) => b.nodes))].sort((a, b) => a - b);
  const possible = twin.level === 'pages' ? twin.machine.isPossible(toNodeId(node)) : nodes.includes(node);
  return possible ? undefined : `the guest has no node ${node}; it has ${nodes.join(', ')}`;
}

/** The best way there is to add `bytes` to a node, done on a fork. Blocks come to `options.zone`, by default Movable. */
export function chooseAddition(
  input: PlanInput,
  options: PlanOptions,
  bytes: number,
  node: number,
  from?: Machine,
): Added {
  const zone = options.zone ?? 'movable';
  const h = input.observation.hypervisor as HypervisorSeen; // cannotAdd asked
  const start = from ?? (input.twin.level === 'pages' ? input.twin.machine : undefined);
  const rejected: Rejected[] = [];
  for (const v of h.virtioMem.filter((x) => x.node === node)) {
    const grown = growDevice(input, v, bytes, zone, start);
    if ('unit' in grown) {
      const dimms = { name: 'dimm', reason: `not needed: virtio-mem ${v.id} has room, is finer, and shrinks again` };
      const warnings = [...grown.warnings, ...sayConsequences(input, bytes, zone)];
      return { units: [grown.unit], bytes, warnings, rejected: [...rejected, dimms], machine: grown.machine };
    }
    rejected.push(grown);
  }
  const dimms = addDimms(input, options, bytes, node, start);
  return { ...dimms, rejected: [...dimms.rejected, ...rejected] };
}

// ------------------------------------------------------------------------------------------------------- virtio-mem

/** One virtio-mem device asked for `bytes` more, its blocks added and online on a fork. */
export function growDevice(
  input: PlanInput,
  v: VirtioMemSeen,
  bytes: number,
  zone: Zone,
  start: Machine | undefined,
):
  | { readonly unit: UnitDraft; readonly warnings: readonly string[]; readonly machine: Machine | undefined }
  | Rejected {
  const name = `virtio-mem:${v.id}`;
  const { observation: o } = input;
  if (!can(input, 'resize-virtio-mem')) return { name, reason: `${input.host.name} cannot resize a virtio-mem device` };
  const unnamed = nameless(v);
  if (unnamed !== undefined) return { name, reason: unnamed };
  const auto = input.observation.autoOnline;
  if (auto !== undefined && auto !== WORD[zone] && !can(input, 'auto-online')) {
    const reason = `its blocks come online by auto_online_blocks (${auto}), and ${input.host.name} cannot change that`;
    return { name, reason };
  }
  const room = v.maxSize - Math.max(v.requested, v.size);
  if (bytes > room) return { name, reason: `it can grow by ${formatSize(Math.max(0, room))} only` };
  if (bytes % v.blockSize !== 0) return { name, reason: `it grows in steps of ${formatSize(v.blockSize)}` };
  if (v.requested !== v.size)
    return { name, reason: `it is asked for ${formatSize(v.requested)} already and has ${formatSize(v.size)}` };
  const there = new Set(o.blocks.map((b) => b.id));
  const fresh = blocksWithin(o, v.addr, v.maxSize).filter((id) => !there.has(id));
  const added = fresh.slice(0, Math.ceil(bytes / o.blockBytes));
  const warnings: string[] = [];
  let machine: Machine | undefined;
  if (start !== undefined) {
    machine = start.fork();
    machine.hotplug.settings.autoOnline = 'offline';
    for (const id of added) {
      const where = { addr: id * o.blockBytes, bytes: o.blockBytes };
      const refused = addTo(machine, start, warnings, where, (m, range) => m.addMemory(range, toNodeId(v.node)));
      if (refused !== undefined) return { name, reason: refused };
      machine.online(toBlockId(id), zone);
    }
  }
  // Its driver adds blocks by itself; who brings them online is auto_online_blocks.
  const steps = inItsZone(input, zone, WORD[zone], [virtioMemStep(v, v.size + bytes)]);
  return { unit: { name, reaches: `${formatSize(bytes)} more`, bytes, steps }, warnings, machine };
}

type AutoOnline = NonNullable<PlanInput['observation']['autoOnline']>;
const WORD: Readonly<Record<Zone, AutoOnline>> = { movable: 'online_movable', kernel: 'online_kernel' };

/** Steps during which auto_online_blocks says `word`; afterwards it says what it said. Nothing to do where it brings what is asked. */
function inItsZone(input: PlanInput, zone: Zone, word: AutoOnline, steps: StepDraft[]): StepDraft[] {
  const was = input.observation.autoOnline;
  if (was === undefined || was === word || was === WORD[zone] || !can(input, 'auto-online')) return steps;
  const why = word === 'offline' ? 'so that the plan says which zone' : 'so that what comes is online, in its zone';
  return [autoOnlineStep(was, word, why), ...steps, autoOnlineStep(word, was, 'as it was')];
}

/** One sentence where the guest brings blocks up in another zone, and nobody here can tell it not to. */
function elsewhere(input: PlanInput, zone: Zone): string | undefined {
  const was = input.observation.autoOnline;
  if (was === undefined || was === 'offline' || was === WORD[zone] || can(input, 'auto-online')) return undefined;
  return `the guest brings added memory online by itself (auto_online_blocks is ${was}), perhaps not in the ${zone} zone, and ${input.host.name} cannot change that`;
}

// ------------------------------------------------------------------------------------------------------------ DIMMs

/** DIMMs only. */
export function addDimms(
  input: PlanInput,
  options: PlanOptions,
  bytes: number,
  node: number,
  start: Machine | undefined,
): Added {
  const { observation: o } = input;
  const zone = options.zone ?? 'movable';
  const h = o.hypervisor as HypervisorSeen;
  const none = (reason: string): Added => ({
    units: [],
    bytes: 0,
    warnings: [],
    rejected: [{ name: 'dimm', reason }],
    machine: start,
  });
  const door = elsewhere(input, zone);
  const refused = noDimms(input, bytes, h) ?? (options.force === true ? undefined : door);
  if (refused !== undefined) return none(refused);
  const slots = freeSlots(h)?.length ?? Number.POSITIVE_INFINITY;
  const units: UnitDraft[] = [];
  const warnings: string[] = door === undefined ? [] : [door];
  const rejected: Rejected[] = [];
  const planned: Omit<DimmSeen, 'slot'>[] = [];
  let now = start;
  let left = bytes;
  while (left > 0) {
    if (units.length === slots) {
      rejected.push({
        name: 'dimm',
        reason: `${plural(slots, 'slot')} are free: ${formatSize(left)} would need one more`,
      });
      break;
    }
    const made = largestDimm(input, { node, zone, left, planned, now });
    if ('reason' in made) {
      rejected.push(made);
      break;
    }
    units.push(made.unit);
    warnings.push(...made.warnings);
    planned.push(made.dimm);
    left -= made.dimm.size;
    now = made.machine;
  }
  const got = bytes - left;
  if (got > 0) {
    warnings.push(...sayConsequences(input, got, zone));
    const first = planned[0] as Omit<DimmSeen, 'slot'>; // something was planned
    if (start !== undefined) warnings.push(sayBudget(start, first.addr, first.size));
  }
  return { units, bytes: got, warnings, rejected, machine: now };
}

/** One sentence about what stands against any DIMM at all. */
function noDimms(input: PlanInput, bytes: number, h: HypervisorSeen): string | undefined {
  const { blockBytes } = input.observation;
  if (!can(input, 'add-dimm')) return `${input.host.name} cannot add a DIMM`;
  if (bytes % blockBytes !== 0) {
    const below = Math.floor(bytes / blockBytes) * blockBytes;
    const nearest = [below, below + blockBytes].filter((n) => n > 0).map((n) => `size:${sizeWord(n)}`);
    return (
      `${formatSize(bytes)} is no multiple of the memory block (${formatSize(blockBytes)}): the guest would take the DIMM ` +
      `and use none of it; ${nearest.join(' or ')}?`
    );
  }
  if (freeSlots(h)?.length === 0) return `all ${h.slots?.total} memory slots are taken`;
  const room = roomBelowMax(h);
  if (room !== undefined && bytes > room) {
    return `maxmem is ${formatSize(h.maxBytes ?? 0)}: ${formatSize(Math.max(0, room))} more can be added`;
  }
  return undefined;
}

type Want = {
  readonly node: number;
  readonly zone: Zone;
  readonly left: number;
  readonly planned: readonly Omit<DimmSeen, 'slot'>[];
  readonly now: Machine | undefined;
};
type Made = {
  readonly unit: UnitDraft;
  readonly dimm: Omit<DimmSeen, 'slot'>;
  readonly warnings: readonly string[];
  readonly machine: Machine | undefined;
};

/** The largest DIMM that fits now; by halving, so that the fork is made some ten times at the most. */
function largestDimm(input: PlanInput, want: Want): Made | Rejected {
  const { blockBytes } = input.observation;
  let fits: Made | undefined;
  let why = '';
  let low = 0;
  let high = want.left / blockBytes + 1;
  let blocks = high - 1; // all of it first: that is what fits as a rule
  while (low + 1 < high) {
    const made = oneDimm(input, want, blocks * blockBytes);
    if (typeof made === 'string') {
      why = made;
      high = blocks;
    } else {
      fits = made;
      low = blocks;
    }
    blocks = Math.floor((low + high) / 2);
  }
  return fits ?? { name: 'dimm', reason: `not even one block more fits: ${why}` };
}

/** A DIMM of this size, plugged and brought online on a fork. @returns one sentence when it does not fit */
function oneDimm(input: PlanInput, want: Want, size: number): Made | string {
  const { observation: o } = input;
  const { node, zone, now } = want;
  const addr = firstFit(o, size, want.planned);
  if (addr === undefined) return `there is no gap of ${formatSize(size)} in the addresses for devices`;
  const id = freeName(input, want.planned);
  const dimm = { id, memdev: `mem-${id}`, size, node, addr };
  const warnings: string[] = [];
  const zoneNames = new Map<number, string>();
  let machine: Machine | undefined;
  const ids = blocksWithin(o, addr, size);
  if (now !== undefined) {
    machine = now.fork();
    machine.hotplug.settings.autoOnline = 'offline';
    const refused = addTo(machine, now, warnings, { addr, bytes: size }, (m, range) =>
      plugDimm(m, range, toNodeId(node)),
    );
    if (refused !== undefined) return refused;
    for (const block of ids) {
      const online = machine.online(toBlockId(block), zone);
      if (!online.ok) return online.error.message;
      zoneNames.set(block, online.value.zone);
    }
  }
  const steps = inItsZone(input, zone, 'offline', [
    addDimmStep(o, dimm),
    ...ids.map((block) => {
      const name = zoneNames.get(block) ?? (zone === 'movable' ? 'Movable' : undefined);
      return onlineStep(o, { id: block, nodes: [node] }, zone, name);
    }),
  ]);
  const unit = { name: `dimm:${id}`, reaches: `${formatSize(size)} more`, bytes: size, steps };
  return { unit, dimm, warnings, machine };
}

/**
 * Adds memory to the fork; when its struct pages find no room, once more without clean page cache, which Linux would drop.
 *
 * @returns one sentence when it does not fit and leave `before`'s watermarks kept
 */
function addTo(
  m: Machine,
  before: Machine,
  warnings: string[],
  range: { readonly addr: number; readonly bytes: number },
  attempt: (m: Machine, range: MemoryRange) => Result<unknown, Refusal>,
): string | undefined {
  const { addr, bytes } = range;
  const frames = { start: toPfn(addr / PAGE_SIZE), end: toPfn((addr + bytes) / PAGE_SIZE) };
  let done = attempt(m, frames);
  if (!done.ok && done.error.reason === 'no-memory' && dropCleanCache(m) > 0) {
    const said = 'the kernel has to drop page cache to make room for struct pages';
    if (!warnings.includes(said)) warnings.push(said);
    done = attempt(m, frames);
  }
  if (!done.ok && done.error.reason !== 'no-memory') return done.error.message;
  return done.ok && keepsMarks(m, before) ? undefined : sayBudget(before, addr, bytes);
}

/** dimm0, dimm1, ...: the first that neither is nor will be there, nor its backend. */
function freeName(input: PlanInput, planned: readonly Pick<DimmSeen, 'id'>[]): string {
  const h = input.observation.hypervisor as HypervisorSeen;
  const taken = new Set([
    ...[...h.dimms, ...h.virtioMem].flatMap((d) => [d.id, d.memdev.replace(/^mem-/, '')]),
    ...planned.map((d) => d.id),
  ]);
  for (let k = 0; ; k++) if (!taken.has(`dimm${k}`)) return `dimm${k}`; // at most one more than there are
}

// --------------------------------------------------------------------------------------------------------- sentences

/** "struct pages take 160M of kernel-zone memory at once; 2.1G are free above the watermarks". */
function sayBudget(m: Machine, addr: number, bytes: number): string {
  const { needed, room, cache } = memmapBudget(m, addr, bytes);
  const more = cache.value === 0 ? '' : `, and ${formatSize(cache.value)} of clean page cache could be dropped`;
  return (
    `struct pages of ${formatSize(bytes)} take ${formatSize(needed.value)} of free kernel-zone memory at the add (${needed.provenance}); ` +
    `${formatSize(room.value)} are free there above the high watermarks (${room.provenance})${more}`
  );
}

export function sayConsequences(input: PlanInput, bytes: number, zone: Zone): string[] {
  const { observation: o } = input;
  const out: string[] = [];
  if (zone === 'kernel') {
    out.push('one-way door: memory in a kernel zone gets kernel pages within seconds, and can then hardly be removed');
  } else {
    const limit = ratioLimit(input);
    const { percent } = movableRatio(o, bytes);
    if (percent > limit) {
      const room = movableRoom(o, limit);
      const split =
        room === 0
          ? 'add it with --zone kernel'
          : `add at most ${formatSize(room)} as Movable and the rest with --zone kernel`;
      const now = Number.isFinite(percent) ? `${Math.round(percent)} %` : 'beyond all measure';
      out.push(
        `Movable memory would be ${now} of the kernel's (auto_movable_ratio is ${limit} %): the kernel may run short while ` +
          `memory is free; ${split}`,
      );
    }
  }
  const h = o.hypervisor;
  if (h?.maxBytes === undefined || h.slots === undefined)
    out.push('maxmem and slots are not known here: the hypervisor may refuse, and nothing has changed then');
  const auto = o.autoOnline;
  if (auto === undefined || auto === 'offline')
    out.push('a udev rule of the guest may bring new blocks online before this plan does, in a zone of its own choice');
  return out;
}

function ratioLimit(input: PlanInput): number {
  const ratio = input.twin.level === 'pages' ? input.twin.machine.hotplug.settings.autoMovable.ratio : 0;
  return ratio > 0 ? ratio : AUTO_MOVABLE_RATIO;
}
