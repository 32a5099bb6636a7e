// Contiguous memory planned: so many free pieces of 2^order frames, by the gentlest steps that give them.
//
//   chain                              each carried out on a fork of the twin, in the order of the harm it does
//   nothing                            there are enough
//   drop                               clean page cache becomes free; it is read again when it is wanted
//   compact                            pages move; everybody waits a little
//   drop, compact
//   evacuate                           memory blocks go offline and come back at once, the cheapest first, only as many as
//   compact, evacuate                  are needed; room elsewhere stays above the high watermarks
//   drop, compact, evacuate
//      └── the first that reaches the number is the plan; what the others would give is told
//
//   none does: feasible is false. Either memory is short (not even in one piece per zone would there be enough), or only a
//   reboot helps: then what holds the rest is named, by holder, with the pieces that it spoils.
//
// Dropping and compacting have nothing to undo, and may fall short on a machine that goes on: `bestEffort`, unless the step is
// the last one, which has to show the number. A block comes back by its undo.
//
// Spec 2.5, 2.11, 3.1; lab facts 10, 18, 21; users.md rows 30 to 32.

import { assert } from '#base/assert';
import { formatSize, plural } from '#base/format';
import { MAX_ORDER, type Machine, PAGE_SIZE, toBlockId } from '#mm/index';
import { offlineCost } from '#twin/cost';
import type { PagesTwin } from '#twin/index';
import {
  blocksWithPoolPages,
  ceilingOf,
  compactAll,
  dropCaches,
  type Evacuated,
  evacuate,
  type Pieces,
  pieceBytes,
  piecesOf,
} from './contiguous-fork.ts';
import { observedChunks } from './contiguous-observed.ts';
import { restOf } from './contiguous-rest.ts';
import type { Action, Condition, Goal, Plan, Rejected } from './plan.ts';
import { can, type Outcome, type PlanInput, planOf, type StepDraft, twoLooks, type UnitDraft } from './plan-input.ts';
import { Rehearsal } from './rehearsal.ts';
import { offlineStep, onlineStep, zoneWord } from './steps.ts';

export type ContiguousGoal = Extract<Goal, { verb: 'contiguous' }>;

type Means = 'drop' | 'compact' | 'evacuate';
/** In the order of the harm they do. */
const CHAINS: readonly (readonly Means[])[] = [
  [],
  ['drop'],
  ['compact'],
  ['drop', 'compact'],
  ['evacuate'],
  ['compact', 'evacuate'],
  ['drop', 'compact', 'evacuate'],
];
const SAY: Readonly<Record<Means, string>> = {
  drop: 'drop clean page cache',
  compact: 'compact',
  evacuate: 'evacuate blocks',
};
const ACTIONS: Readonly<Record<Means, readonly Action['do'][]>> = {
  drop: ['drop-caches'],
  compact: ['compact'],
  evacuate: ['offline-block', 'online-block'],
};
const sayChain = (chain: readonly Means[]): string =>
  chain.length === 0 ? 'as things are' : chain.map((means) => SAY[means]).join(', ');

/** What became of the fork, link by link. */
type Link =
  | { readonly means: 'drop' | 'compact'; readonly pages: number; readonly after: Pieces }
  | { readonly means: 'evacuate'; readonly block: Evacuated; readonly after: Pieces };

type Tried = {
  readonly chain: readonly Means[];
  readonly links: readonly Link[];
  readonly pieces: Pieces;
  readonly machine: Machine;
  /** Why a block more was not tried, where evacuation stopped short. */
  readonly stoppedBy?: string;
};

/** So many candidates in a row that give nothing mean that there is nothing more to be had. */
const VAIN_MAX = 8;
const GROUPS_SHOWN = 5;

/** @param goal  chunks above 0, order 0 to 10. Cost: a fork a chain, and some milliseconds for each block that is tried. */
export function planContiguous(goal: ContiguousGoal, input: PlanInput): Plan {
  const { chunks, order } = goal;
  assert(chunks > 0 && order >= 0 && order <= MAX_ORDER, 'so many pieces of an order that there is', { chunks, order });
  const say = (outcome: Outcome): Plan => planOf(goal, input, outcome);
  const changed = twoLooks(input) ?? cannotPool(goal, input);
  if (changed !== undefined) return say({ feasible: false, summary: changed });
  const { twin } = input;
  if (twin.level === 'counters') return say(byCounters(goal, input));

  const tried: Tried[] = [];
  const rejected: Rejected[] = [];
  for (const chain of CHAINS) {
    const lacks = chain.flatMap((means) => ACTIONS[means]).find((action) => !can(input, action));
    if (lacks !== undefined) {
      rejected.push({ name: sayChain(chain), reason: `${input.host.name} cannot do it (${lacks})` });
      continue;
    }
    const t = tryChain(input, twin, goal, chain);
    tried.push(t);
    if (t.pieces.usable >= goal.chunks) break;
  }
  const last = tried[tried.length - 1] as Tried; // "as things are" needs no action and is always tried
  const reached = last.pieces.usable >= goal.chunks;
  const others = reached ? tried.slice(0, -1) : tried;
  rejected.unshift(...others.map((t) => ({ name: sayChain(t.chain), reason: sayShort(t, goal) })));
  if (!reached) return say(notFeasible(goal, input, twin, tried, rejected));
  const units = unitsOf(goal, input, last);
  return say({ feasible: true, summary: sayReached(goal, last, units), warnings: warningsOf(last), units, rejected });
}

// ---------------------------------------------------------------------------------------------------------- on forks

function tryChain(input: PlanInput, twin: PagesTwin, goal: ContiguousGoal, chain: readonly Means[]): Tried {
  let r = new Rehearsal(twin);
  const links: Link[] = [];
  let stoppedBy: string | undefined;
  for (const means of chain) {
    const m = machineOf(r);
    if (means === 'evacuate') {
      const e = evacuateBlocks(input, twin, goal, r);
      r = e.after;
      links.push(...e.links);
      stoppedBy = e.stoppedBy;
    } else {
      const pages = means === 'drop' ? dropCaches(m) : compactAll(m);
      links.push({ means, pages, after: piecesOf(m, goal.order) });
    }
  }
  const machine = machineOf(r);
  // As things are, the kernel's own count is better than the twin's: free lists change while page flags are read.
  const pieces =
    chain.length === 0 ? observedChunks(twin, input.observation, goal.order) : piecesOf(machine, goal.order);
  return { chain, links, pieces, machine, ...(stoppedBy === undefined ? {} : { stoppedBy }) };
}

const machineOf = (r: Rehearsal): Machine => r.machine as Machine; // of a twin with page flags there always is one

/** The block that gives most pieces for the pages that move goes first; one that gives none stays. */
function evacuateBlocks(
  input: PlanInput,
  twin: PagesTwin,
  goal: ContiguousGoal,
  from: Rehearsal,
): { readonly after: Rehearsal; readonly links: readonly Link[]; readonly stoppedBy: string | undefined } {
  const links: Link[] = [];
  let now = from;
  let stoppedBy: string | undefined;
  let vain = 0;
  const pool = blocksWithPoolPages(machineOf(now));
  const candidates = input.observation.blocks
    .filter((b) => b.state === 'online' && b.zone !== undefined && !pool.has(b.id))
    .map((b) => ({ id: b.id, gain: gainOf(machineOf(now), b.id, goal.order) }))
    .filter((c) => c.gain > 0)
    .map((c) => ({ ...c, verdict: now.judge(c.id) }))
    .filter((c) => c.verdict?.verdict === 'yes')
    .map((c) => ({ id: c.id, price: (c.verdict?.pagesToMigrate.value ?? 0) / c.gain }))
    .sort((a, b) => a.price - b.price || b.id - a.id);
  for (const { id } of candidates) {
    const before = piecesOf(machineOf(now), goal.order);
    if (before.usable >= goal.chunks || vain >= VAIN_MAX) break;
    const next = new Rehearsal(twin, now);
    const done = evacuate(next, id);
    if (typeof done === 'string') {
      stoppedBy ??= `block ${id}: ${done}`;
      vain++;
      continue;
    }
    const after = piecesOf(machineOf(next), goal.order);
    if (after.usable <= before.usable) {
      vain++;
      continue;
    }
    vain = 0;
    now = next;
    links.push({ means: 'evacuate', block: done, after });
  }
  return { after: now, links, stoppedBy };
}

/** Pieces of a block that are not wholly free: what it could give. Cost O(frames of the block) at most. */
function gainOf(m: Machine, id: number, order: number): number {
  const block = m.block(toBlockId(id));
  if (block?.pool === undefined) return 0;
  const size = 2 ** order;
  const { pool, startPfn, endPfn } = block;
  let free = 0;
  const at = m.sections.indexOf(startPfn) - pool.base;
  for (let k = 0; k + size <= endPfn - startPfn; k += size) {
    if (pool.alloc.area.freeIn(at + k, at + k + size) === size) free++;
  }
  return (endPfn - startPfn) / size - free;
}

// ---------------------------------------------------------------------------------------------------------- the plan

function unitsOf(goal: ContiguousGoal, input: PlanInput, t: Tried): UnitDraft[] {
  const units: UnitDraft[] = [];
  t.links.forEach((link, k) => {
    const isLast = k === t.links.length - 1 && !goal.hugePages;
    if (link.means === 'evacuate') units.push(evacuateUnit(input, link, isLast ? [showsGoal(goal, link.after)] : []));
    else units.push(plainUnit(goal, link, isLast));
  });
  if (goal.hugePages) units.push(poolUnit(goal, input));
  return units;
}

/** Pieces that buddyinfo has to show for the goal: those wanted, and those that have to stay free. */
const showsGoal = (goal: ContiguousGoal, after: Pieces): Condition => ({
  is: 'free-chunks',
  order: goal.order,
  atLeast: goal.chunks + after.there - after.usable,
});

/** Assumed, milliseconds: looking at a page of the cache and freeing it. */
const DROP_PAGE_MS = 0.001;
const SLACK = 50;
const FLOOR_MS = 60_000;
const deadline = (ms: number): number => Math.max(FLOOR_MS, Math.ceil(ms * SLACK));

function plainUnit(
  goal: ContiguousGoal,
  link: Extract<Link, { means: 'drop' | 'compact' }>,
  isLast: boolean,
): UnitDraft {
  const { pages, after } = link;
  const size = formatSize(pieceBytes(goal.order));
  const cost =
    link.means === 'drop'
      ? { value: Math.round(pages * DROP_PAGE_MS * 10) / 10, provenance: 'assumed' as const }
      : offlineCost({ pageblocks: 0, pages, hugePages: 0 });
  const reaches = `${plural(after.usable, 'piece')} of ${size}`;
  const effect: Condition = isLast
    ? showsGoal(goal, after)
    : { is: 'free-chunks', order: goal.order, atLeast: after.there };
  const step: StepDraft = {
    title:
      link.means === 'drop'
        ? `drop clean page cache (${formatSize(pages * PAGE_SIZE)})`
        : `compact all memory (${plural(pages, 'page')} move)`,
    action: link.means === 'drop' ? { do: 'drop-caches', what: 1 } : { do: 'compact' },
    expect: [],
    effect: [effect],
    ...(isLast ? {} : { bestEffort: true }),
    predicts:
      link.means === 'drop'
        ? { bytesFreed: { value: pages * PAGE_SIZE, provenance: 'derived' }, ms: cost }
        : { pagesToMove: { value: pages, provenance: 'derived' }, ms: cost },
    risk:
      link.means === 'drop'
        ? 'what was cached is read from storage again when it is wanted'
        : 'whoever touches a page while it moves waits for it',
    deadlineMs: deadline(cost.value),
  };
  return { name: link.means === 'drop' ? 'drop-caches' : 'compact', reaches, bytes: 0, steps: [step] };
}

function evacuateUnit(
  input: PlanInput,
  link: Extract<Link, { means: 'evacuate' }>,
  shows: readonly Condition[],
): UnitDraft {
  const { observation: o } = input;
  const { block: id, zone, pagesMoved, ms } = link.block;
  const seen = o.blocks.find((b) => b.id === id);
  assert(seen !== undefined, 'a candidate is a block of the observation', { id });
  const online = onlineStep(o, seen, zoneWord(zone), zone);
  return {
    name: `evacuate:block:${id}`,
    reaches: `${formatSize(o.blockBytes)} in one piece`,
    bytes: 0,
    steps: [
      offlineStep(o, seen, {
        pagesToMove: { value: pagesMoved, provenance: 'derived' },
        ms: { value: ms, provenance: 'assumed' },
      }),
      { ...online, effect: [...online.effect, ...shows] },
    ],
  };
}

/** The pool as the kernel has it now, of pages of the goal's size. */
function poolOf(goal: ContiguousGoal, input: PlanInput): { total: number; free: number } | undefined {
  const pools = input.observation.hugePages.filter((p) => p.bytes === pieceBytes(goal.order));
  if (pools.length === 0) return undefined;
  return { total: pools.reduce((n, p) => n + p.total, 0), free: pools.reduce((n, p) => n + p.free, 0) };
}

function cannotPool(goal: ContiguousGoal, input: PlanInput): string | undefined {
  if (!goal.hugePages) return undefined;
  if (!can(input, 'set-hugepages')) return `${input.host.name} cannot set the number of huge pages`;
  if (poolOf(goal, input) !== undefined) return undefined;
  return `this machine has no huge pages of ${formatSize(pieceBytes(goal.order))} (order ${goal.order})`;
}

/** Assumed, milliseconds: clearing 2 MiB. */
const POOL_PAGE_MS = 0.2;

function poolUnit(goal: ContiguousGoal, input: PlanInput): UnitDraft {
  const { total } = poolOf(goal, input) ?? { total: 0 }; // asked before: cannotPool
  const pageBytes = pieceBytes(goal.order);
  const ms = Math.round(goal.chunks * POOL_PAGE_MS * 10) / 10;
  return {
    name: 'huge-pages',
    reaches: `${plural(goal.chunks, 'huge page')} of ${formatSize(pageBytes)} more in the pool`,
    bytes: goal.chunks * pageBytes,
    steps: [
      {
        title: `set the pool of ${formatSize(pageBytes)} pages from ${total} to ${total + goal.chunks}`,
        action: { do: 'set-hugepages', pageBytes, pages: total + goal.chunks },
        expect: [{ is: 'hugepages', pageBytes, atLeast: total }],
        effect: [{ is: 'hugepages', pageBytes, atLeast: total + goal.chunks }],
        predicts: { ms: { value: ms, provenance: 'assumed' } },
        undo: [{ do: 'set-hugepages', pageBytes, pages: total }],
        deadlineMs: deadline(ms),
      },
    ],
  };
}

// ---------------------------------------------------------------------------------------------------------- sentences

const sayPieces = (goal: ContiguousGoal): string =>
  `${plural(goal.chunks, 'piece')} of ${formatSize(pieceBytes(goal.order))}`;

function sayReached(goal: ContiguousGoal, t: Tried, units: readonly UnitDraft[]): string {
  const has = `${t.pieces.usable} can be had`;
  if (t.chain.length === 0)
    return goal.hugePages
      ? `${sayPieces(goal)}: ${has} now; they only have to go into the pool`
      : `${sayPieces(goal)}: ${has} now, nothing has to be done`;
  const steps = units.flatMap((u) => u.steps);
  const moves = steps.reduce((n, s) => n + (s.predicts.pagesToMove?.value ?? 0), 0);
  const ms = Math.round(steps.reduce((n, s) => n + s.predicts.ms.value, 0));
  const blocks = t.links.filter((l) => l.means === 'evacuate').length;
  const what = t.chain.map((means) => (means === 'evacuate' ? `evacuate ${plural(blocks, 'block')}` : SAY[means]));
  return `${sayPieces(goal)}: ${what.join(', ')}; then ${has}, ${plural(moves, 'page')} move, ${ms} ms predicted`;
}

function sayShort(t: Tried, goal: ContiguousGoal): string {
  const blocks = t.links.filter((l) => l.means === 'evacuate').length;
  const by = t.chain.includes('evacuate') ? `${plural(blocks, 'block')} evacuated, ` : '';
  const stop = t.stoppedBy === undefined ? '' : `; ${t.stoppedBy}`;
  return `${by}${t.pieces.usable} of ${goal.chunks}${stop}`;
}

const SLAB_NOTE =
  'slab is not counted on: echo 2 > /proc/sys/vm/drop_caches frees some of it, and no page flag tells how much';

function warningsOf(t: Tried): string[] {
  const out: string[] = [];
  if (t.chain.includes('evacuate')) out.push('for a moment each evacuated block is missing: memory is that much less');
  if (t.chain.length > 0) out.push('the machine goes on meanwhile: what was made free may be taken before it is used');
  return out;
}

function notFeasible(
  goal: ContiguousGoal,
  input: PlanInput,
  twin: PagesTwin,
  tried: readonly Tried[],
  rejected: readonly Rejected[],
): Outcome {
  const best = tried.reduce((a, b) => (b.pieces.usable > a.pieces.usable ? b : a));
  const most = best.pieces.usable;
  const how = best.chain.length === 0 ? 'now' : `after: ${sayChain(best.chain)}`;
  const ceiling = Math.max(most, ceilingOf(twin.machine, goal.order));
  const pool = poolOf(goal, input);
  const warnings = [
    SLAB_NOTE,
    ...(pool !== undefined && pool.free > 0
      ? [`${plural(pool.free, 'huge page')} of that size lie free in the pool and are not counted`]
      : []),
  ];
  if (ceiling < goal.chunks) {
    const summary =
      `${sayPieces(goal)} cannot be had, and not for want of contiguity: all that is free or clean cache makes ${ceiling}; ` +
      `${most} can be had ${how}; free memory first (stop something, or add memory)`;
    return { feasible: false, summary, warnings, rejected };
  }
  const rest = restOf(best.machine, goal.order);
  const holders = rest.groups.slice(0, GROUPS_SHOWN).map((g) => ({
    name: `holds ${plural(g.pieces, 'piece')}`,
    reason: `${g.name}: ${plural(g.pages, 'page')} (${g.cause})`,
  }));
  const summary =
    `${sayPieces(goal)}: only a reboot helps; ${most} can be had ${how}; ` +
    `pages that cannot move spoil ${rest.spoiled} of ${rest.pieces} pieces`;
  return { feasible: false, summary, warnings, rejected: [...rejected, ...holders] };
}

/** Without page flags: what the free lists say, which is measured, and a bound that nothing can go beyond. */
function byCounters(goal: ContiguousGoal, input: PlanInput): Outcome {
  const now = observedChunks(input.twin, input.observation, goal.order);
  if (now.usable >= goal.chunks) {
    const units = goal.hugePages ? [poolUnit(goal, input)] : [];
    return { feasible: true, summary: `${sayPieces(goal)}: ${now.usable} can be had now`, units };
  }
  const summary =
    `${sayPieces(goal)}: ${now.usable} can be had now, and at most ${now.bound} if all that is free were in one piece: an upper ` +
    'bound only; without page flags nothing can be tried, run it as root';
  return { feasible: false, summary, rejected: [{ name: 'as things are', reason: `${now.usable} of ${goal.chunks}` }] };
}
