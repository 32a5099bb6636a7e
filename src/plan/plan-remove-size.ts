// So much memory is to leave, whichever: the cheapest set of what can go.
//
//   hypervisor       DIMMs, whole ──────────┐                                          cheapest set    rehearsed one after the
//                    virtio-mem, in pieces ─┴─> what each would cost, on its own fork ────────────────> other on one fork ──> units
//                                                                                       ▲ without it      │ refused there
//                                                                                       └─────────────────┘
//                    not enough ──> single blocks as well, named as what they are: offline, not given back to the hypervisor
//   no hypervisor    blocks, fewest pages to move first, then the highest address, until it is enough
//
// What is in doubt (verdict maybe) is taken only when it does not come to enough without. Cost is the predicted time, which
// counts blocks and pages; equal cost: the least in excess. Cheap units go first, so that a plan that is interrupted has
// reached most for what it did.
//
// Each round of the loop drops at least one candidate, so that there are at most as many rounds as candidates.

import { formatSize, plural } from '#base/format';
import type { BlockVerdict } from '#twin/index';
import { cheapestSet } from './cheapest-set.ts';
import { type Giver, giversOf, giveTogether, picksOf, scaleFor, tooLittleLeft } from './givers.ts';
import { blocksWithin } from './observation.ts';
import type { Rejected } from './plan.ts';
import { can, type Outcome, type PlanInput, type PlanOptions, type UnitDraft } from './plan-input.ts';
import { offlineUnit, sayRefused } from './plan-remove-unit.ts';
import { Rehearsal } from './rehearsal.ts';
import { sumMs } from './steps.ts';

export type Chosen = {
  readonly units: readonly UnitDraft[];
  readonly bytes: number;
  readonly warnings: readonly string[];
  readonly rejected: readonly Rejected[];
  readonly after: Rehearsal;
};

/** So many blocks in a row that do not go together mean that no more will. */
const STUCK_MAX = 8;

/** What comes to at least `bytes`, or as much as can go. Cost: each candidate tried alone, then the chosen ones together. */
export function chooseRemoval(input: PlanInput, options: PlanOptions, bytes: number): Chosen {
  const start = new Rehearsal(input.twin);
  if (input.observation.hypervisor === undefined) return chooseBlocks(input, options, start, bytes, new Set());
  const devices = chooseDevices(input, options, start, bytes);
  if (devices.bytes >= bytes || !can(input, 'offline-block')) return devices;
  const taken = new Set<number>();
  const { dimms, virtioMem } = input.observation.hypervisor;
  for (const d of dimms) {
    if (devices.units.some((u) => u.name === `dimm:${d.id}`))
      for (const id of blocksWithin(input.observation, d.addr, d.size)) taken.add(id);
  }
  for (const v of virtioMem) for (const id of blocksWithin(input.observation, v.addr, v.maxSize)) taken.add(id);
  const more = chooseBlocks(input, options, devices.after, bytes - devices.bytes, taken);
  const rest = formatSize(more.bytes);
  return {
    units: [...devices.units, ...more.units],
    bytes: devices.bytes + more.bytes,
    warnings: [
      ...devices.warnings,
      ...(more.units.length === 0
        ? []
        : [
            `devices give ${formatSize(devices.bytes)} only: ${rest} of it are single blocks that go offline, a last resort: ` +
              'the guest loses them and the hypervisor gets nothing back',
          ]),
      ...more.warnings,
    ],
    rejected: [...devices.rejected, ...more.rejected],
    after: more.after,
  };
}

export function outcomeOf(target: string, bytes: number, chosen: Chosen): Outcome {
  const { units, warnings, rejected } = chosen;
  const feasible = chosen.bytes >= bytes;
  const steps = units.flatMap((u) => u.steps);
  const does = `${formatSize(chosen.bytes)} by ${plural(units.length, 'unit')}, ${plural(steps.length, 'step')}, ${Math.round(sumMs(steps))} ms predicted`;
  const summary = feasible
    ? `${target}: ${does}`
    : `${target} is more than can go now: ${chosen.bytes === 0 ? 'nothing can' : does}`;
  return { feasible, summary, units, warnings, rejected };
}

// ---------------------------------------------------------------------------------------------------------- devices

function chooseDevices(input: PlanInput, options: PlanOptions, start: Rehearsal, bytes: number): Chosen {
  const scale = scaleFor(bytes, 'at-least');
  const found = giversOf(input, start, scale);
  const refused = [...found.rejected];
  let { givers } = found;
  const rounds = givers.length + 1;
  for (let round = 0; round < rounds; round++) {
    const sure = givers.filter((g) => !g.doubtful);
    const some = cheapestSet(sure, scale.units) !== undefined ? sure : givers;
    const choice = cheapestSet(some, scale.units) ?? some.map((g) => g.options.length - 1); // not enough: all there is
    const picks = picksOf(some, choice);
    // Options of a device are whole memory blocks; it gives less where less is enough.
    let excess = picks.reduce((n, p) => n + p.bytes, 0) - bytes;
    for (const p of picks) {
      if (p.giver.piece === undefined || excess <= 0) continue;
      const less = Math.min(p.bytes, Math.floor(excess / p.giver.piece) * p.giver.piece);
      p.bytes -= less;
      excess -= less;
    }
    const made = giveTogether(options, start, picks);
    if ('reason' in made) {
      refused.push(made);
      givers = givers.filter((g) => g.name !== made.name);
      continue;
    }
    const used = new Set(made.units.map((u) => u.name));
    const notNeeded = givers.filter((g) => !used.has(g.name)).map((g) => notChosen(g, made.units));
    return { ...made, rejected: [...refused, ...notNeeded] };
  }
  return { units: [], bytes: 0, warnings: [], rejected: refused, after: start };
}

function notChosen(c: Giver, units: readonly UnitDraft[]): Rejected {
  if (c.doubtful) return { name: c.name, reason: 'not needed, and in doubt' };
  const [last] = c.options.slice(-1);
  const chosen = Math.round(units.reduce((ms, u) => ms + sumMs(u.steps), 0));
  const reason = `not needed: the chosen ones cost ${chosen} ms together, with it ${Math.round(last?.cost ?? 0)} ms more or instead`;
  return { name: c.name, reason };
}

// ----------------------------------------------------------------------------------------------------------- blocks

function chooseBlocks(
  input: PlanInput,
  options: PlanOptions,
  start: Rehearsal,
  bytes: number,
  not: ReadonlySet<number>,
): Chosen {
  const { observation: o } = input;
  const rejected: Rejected[] = [];
  const yes: BlockVerdict[] = [];
  for (const b of o.blocks) {
    if (not.has(b.id) || b.state === 'offline') continue;
    const v = b.state === 'online' ? start.judge(b.id) : undefined;
    if (v?.verdict === 'yes') yes.push(v);
    else if (v === undefined) rejected.push({ name: `block:${b.id}`, reason: `it is ${b.state}` });
    else rejected.push(v.verdict === 'no' ? sayRefused(v) : { ...sayRefused(v), reason: `in doubt: ${v.reason}` });
  }
  yes.sort((a, b) => a.pagesToMigrate.value - b.pagesToMigrate.value || b.block - a.block);
  const units: UnitDraft[] = [];
  const warnings: string[] = [];
  let after = start;
  let got = 0;
  let stuck = 0;
  for (const v of yes) {
    if (got >= bytes || stuck === STUCK_MAX) break;
    const tried = offlineUnit(input, {}, after, { name: `block:${v.block}`, ids: [v.block] });
    if (tried.unit === undefined) {
      stuck++;
      rejected.push(...tried.rejected.map((r) => ({ ...r, reason: `once others left: ${r.reason}` })));
      continue;
    }
    const short = tooLittleLeft(tried.after);
    if (short !== undefined && options.force !== true) {
      rejected.push({ name: tried.unit.name, reason: short });
      break; // every block takes as much
    }
    if (short !== undefined) warnings.push(`${tried.unit.name}: ${short}`);
    units.push(tried.unit);
    warnings.push(...tried.doubts.map((d) => `${tried.unit.name}: ${d}`));
    got += o.blockBytes;
    after = tried.after;
  }
  return { units, bytes: got, warnings, rejected, after };
}
