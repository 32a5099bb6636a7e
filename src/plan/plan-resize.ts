// Resizing planned: how much memory the guest should have in all, and the mechanisms that get it there.
//
//   has    boot memory less what the balloon took, and what is plugged: DIMMs whole, virtio-mem by its plugged size
//
//   down   DIMMs and virtio-mem, as near to it as they come without going below; of those sets the cheapest
//          what is left of it: the balloon                                    no piece of memory leaves the guest for good
//   up     the balloon gives back ─> virtio-mem grows ─> a DIMM               in that order: each next one is coarser
//
// Exactly that much, never less than was asked for: a guest that gets too little may die of it. Everything is done on one
// fork, the balloon too: it allocates its pages there, and what cannot be allocated is not planned.
//
// Spec 5.4, 5.5; lab, "virtio-mem notes".

import { formatSize, plural } from '#base/format';
import { PAGE_SIZE, toOrder } from '#mm/index';
import { fullestSet } from './cheapest-set.ts';
import { giversOf, giveTogether, type Pick, picksOf, scaleFor } from './givers.ts';
import { sizeWord } from './goal.ts';
import { dropAllCleanCache } from './memmap-budget.ts';
import type { HypervisorSeen } from './observation.ts';
import type { Goal, Plan, Rejected } from './plan.ts';
import { addDimms, growDevice, sayConsequences } from './plan-add.ts';
import { can, type PlanInput, type PlanOptions, planOf, twoLooks, type UnitDraft } from './plan-input.ts';
import { Rehearsal } from './rehearsal.ts';
import { balloonStep, sumMs } from './steps.ts';

type ResizeGoal = Extract<Goal, { verb: 'resize' }>;

type Resized = {
  readonly units: readonly UnitDraft[];
  readonly warnings: readonly string[];
  readonly rejected: readonly Rejected[];
  /** Bytes that were wanted and are not in the units. */
  readonly missing: number;
};

/** What the guest has, bytes: the figure that a resize is about. */
export const hasBytes = (h: HypervisorSeen): number => (h.balloonBytes ?? h.baseBytes) + h.pluggedBytes;

export function planResize(goal: ResizeGoal, input: PlanInput, options: PlanOptions = {}): Plan {
  const h = input.observation.hypervisor;
  const refused =
    twoLooks(input) ??
    (h === undefined ? 'a machine is resized by its hypervisor, and none is asked here' : undefined) ??
    (goal.bytes % PAGE_SIZE === 0 ? undefined : `${goal.bytes} bytes are no whole pages`);
  if (h === undefined || refused !== undefined)
    return planOf(goal, input, { feasible: false, summary: refused ?? 'no hypervisor' });
  const has = hasBytes(h);
  const text = `size:${sizeWord(goal.bytes)}`;
  if (has === goal.bytes) return planOf(goal, input, { feasible: true, summary: `${text}: it has that much already` });
  const down = goal.bytes < has;
  const by = Math.abs(has - goal.bytes);
  const r = down ? shrinkBy(input, options, h, by) : growBy(input, options, h, by);
  const steps = r.units.flatMap((u) => u.steps);
  const does = `${formatSize(by - r.missing)} ${down ? 'less' : 'more'} by ${r.units.map((u) => u.name).join(', ')}; ${plural(steps.length, 'step')}, ${Math.round(sumMs(steps))} ms predicted`;
  const summary =
    r.missing === 0
      ? `${text}: from ${formatSize(has)}, ${does}`
      : `${text} cannot be reached: ${sizeWord(r.missing)} ${down ? 'more would have to go' : 'more would have to come'}${r.units.length === 0 ? '' : ` beyond ${does}`}`;
  return planOf(goal, input, { feasible: r.missing === 0, summary, ...r });
}

// ------------------------------------------------------------------------------------------------------------- down

function shrinkBy(input: PlanInput, options: PlanOptions, h: HypervisorSeen, by: number): Resized {
  const start = new Rehearsal(input.twin);
  const scale = scaleFor(by, 'at-most');
  const found = giversOf(input, start, scale);
  const rejected = [...found.rejected];
  let { givers } = found;
  const rounds = givers.length + 1;
  for (let round = 0; round < rounds; round++) {
    const picks = picksOf(givers, fullestSet(givers, scale.units));
    fill(picks, by - picks.reduce((n, p) => n + p.bytes, 0));
    const made = giveTogether(options, start, picks);
    if ('reason' in made) {
      rejected.push(made);
      givers = givers.filter((g) => g.name !== made.name);
      continue;
    }
    const left = by - made.bytes;
    if (left === 0) {
      const used = new Set(made.units.map((u) => u.name));
      const others = givers.filter((g) => !used.has(g.name)).map((g) => ({ name: g.name, reason: 'not needed' }));
      const balloon =
        h.balloonBytes === undefined
          ? []
          : [{ name: 'balloon', reason: 'not needed: devices give all of it, for good' }];
      return { ...made, rejected: [...rejected, ...others, ...balloon], missing: 0 };
    }
    const rest = inflate(input, options, h, made.after, left);
    if (typeof rest === 'string')
      return { ...made, rejected: [...rejected, { name: 'balloon', reason: rest }], missing: left };
    return {
      units: [...made.units, rest.unit],
      warnings: [...made.warnings, ...rest.warnings],
      rejected,
      missing: 0,
    };
  }
  return { units: [], warnings: [], rejected, missing: by };
}

/** Options are whole memory blocks; a device gives more in its own pieces, up to `left` bytes. */
function fill(picks: readonly Pick[], left: number): void {
  let rest = left;
  for (const p of picks) {
    const { piece, bytes } = p.giver;
    if (piece === undefined) continue;
    const most = bytes[bytes.length - 1] ?? 0;
    const more = Math.min(Math.floor(rest / piece) * piece, most - p.bytes);
    p.bytes += more;
    rest -= more;
  }
}

// ---------------------------------------------------------------------------------------------------------- balloon

/** The balloon takes `bytes` on the fork. @returns one sentence when it does not get them */
function inflate(
  input: PlanInput,
  options: PlanOptions,
  h: HypervisorSeen,
  after: Rehearsal,
  bytes: number,
): { readonly unit: UnitDraft; readonly warnings: readonly string[] } | string {
  if (h.balloonBytes === undefined)
    return `${sizeWord(bytes)} are left that only a balloon could take, and there is none`;
  if (!can(input, 'balloon')) return `${input.host.name} cannot set the balloon`;
  const to = h.balloonBytes - bytes;
  if (to <= 0) return `the boot memory has ${formatSize(h.balloonBytes)}: the balloon cannot take ${formatSize(bytes)}`;
  const refused = tooLittleFor(input, after, bytes);
  if (refused !== undefined && options.force !== true) return refused;
  const risk =
    'the guest keeps the memory and may take it back (deflate on OOM); short of memory it reclaims, or kills';
  const unit: UnitDraft = {
    name: 'balloon',
    reaches: `${formatSize(bytes)} less`,
    bytes,
    steps: [balloonStep(h.balloonBytes, to, risk)],
  };
  return { unit, warnings: [`balloon: ${risk}`, ...(refused === undefined ? [] : [`balloon: ${refused}`])] };
}

function tooLittleFor(input: PlanInput, after: Rehearsal, bytes: number): string | undefined {
  const m = after.machine?.fork();
  if (m === undefined) {
    const available = input.observation.memAvailable ?? input.observation.memFree;
    return bytes <= available
      ? undefined
      : `${formatSize(bytes)} are wanted and ${formatSize(available)} are available`;
  }
  const holder = m.addHolder({ class: 'balloon', name: 'balloon' });
  let got = 0;
  let dropped = false;
  while (got < bytes) {
    if (m.alloc(holder, toOrder(0)) >= 0) got += PAGE_SIZE;
    else if (dropped || dropAllCleanCache(m) === 0) break;
    else dropped = true;
  }
  if (got < bytes) return `the guest could give ${formatSize(got)} of ${formatSize(bytes)} and would be out of memory`;
  const spare = after.toSpare() ?? 0;
  return spare >= bytes
    ? undefined
    : `it would leave ${formatSize(bytes - spare)} less free memory than the high watermarks ask for`;
}

// --------------------------------------------------------------------------------------------------------------- up

function growBy(input: PlanInput, options: PlanOptions, h: HypervisorSeen, by: number): Resized {
  const { observation: o } = input;
  const units: UnitDraft[] = [];
  const warnings: string[] = [];
  const rejected: Rejected[] = [];
  const inBalloon = h.balloonBytes === undefined || !can(input, 'balloon') ? 0 : h.baseBytes - h.balloonBytes;
  let deflate = Math.min(by, inBalloon);
  let left = by - deflate;

  let machine = input.twin.level === 'pages' ? input.twin.machine : undefined;
  for (const v of h.virtioMem) {
    const room = Math.max(0, v.maxSize - v.size);
    const part = Math.min(Math.floor(left / v.blockSize) * v.blockSize, room);
    if (part === 0) continue;
    const grown = growDevice(input, v, part, options.zone ?? 'movable', machine);
    if (!('unit' in grown)) {
      rejected.push(grown);
      continue;
    }
    units.push(grown.unit);
    warnings.push(...grown.warnings);
    machine = grown.machine;
    left -= part;
  }
  if (left > 0) {
    // A DIMM is whole memory blocks: the balloon keeps what is too much.
    const whole = Math.ceil(left / o.blockBytes) * o.blockBytes;
    const keep = whole - left;
    if (keep > deflate) {
      const reason = `${sizeWord(left)} are no whole memory blocks (${formatSize(o.blockBytes)}), and nothing finer has room`;
      rejected.push({ name: 'dimm', reason });
    } else {
      const node = emptiestNode(input);
      const added = addDimms(input, options, whole, node, machine);
      warnings.push(...added.warnings);
      rejected.push(...added.rejected);
      if (added.bytes === whole) {
        units.push(...added.units);
        deflate -= keep;
        left = 0;
      }
    }
  } else if (units.length > 0) {
    warnings.push(...sayConsequences(input, by - deflate, options.zone ?? 'movable'));
  }
  if (deflate > 0 && h.balloonBytes !== undefined) {
    units.unshift({
      name: 'balloon',
      reaches: `${formatSize(deflate)} more`,
      bytes: deflate,
      steps: [balloonStep(h.balloonBytes, h.balloonBytes + deflate)],
    });
  }
  return { units, warnings, rejected, missing: left };
}

/** The node with least memory, the last of them: a DIMM evens them out. */
function emptiestNode(input: PlanInput): number {
  const bytes = new Map<number, number>();
  for (const b of input.observation.blocks) {
    const node = b.nodes[0] ?? 0;
    bytes.set(node, (bytes.get(node) ?? 0) + 1);
  }
  return [...bytes].sort((a, b) => a[1] - b[1] || b[0] - a[0])[0]?.[0] ?? 0;
}
