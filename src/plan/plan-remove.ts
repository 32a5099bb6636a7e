// Removal planned: memory that is to leave, by name.
//
//   target       with a hypervisor                                           without one
//   dimm:ID      its blocks go offline, then the DIMM                        -
//   dimm:N       the same, by its rank in `ls dimms`                         its blocks go offline, all or nothing
//   node:N       each DIMM and virtio-mem device of the node leaves;         its blocks go offline, each for itself
//                blocks of boot memory go offline and stay in the machine
//   block:..     offline, each for itself; never more than was named         the same
//   range:.. zone:..
//   size:4G      plan-remove-size.ts
//
// Each unit is executed on a fork in which the units before it are done. What does not go there is not planned but named,
// with the pages in the way and their holder; `force` plans it nevertheless. A removal that would leave less free memory
// than the high watermarks ask for is refused, too: the guest would be reclaiming, or killing, from then on.
//
// Spec 3.1, 7.2; lab facts 2, 4, 12.

import { formatSize, plural } from '#base/format';
import { err, ok, type Result } from '#base/result';
import { tooLittleLeft } from './givers.ts';
import { sizeOf } from './goal.ts';
import { type BlockSeen, blocksWithin, type DimmSeen, type VirtioMemSeen } from './observation.ts';
import type { Goal, Plan, Rejected } from './plan.ts';
import { can, type Outcome, type PlanInput, type PlanOptions, planOf, twoLooks, type UnitDraft } from './plan-input.ts';
import { chooseRemoval, outcomeOf } from './plan-remove-size.ts';
import { dimmUnit, offlineUnit, type Tried } from './plan-remove-unit.ts';
import { nameless, shrinkUnit, tryShrink } from './plan-virtio-mem.ts';
import { Rehearsal } from './rehearsal.ts';
import { sumMs, sumPages } from './steps.ts';

type RemoveGoal = Extract<Goal, { verb: 'remove' }>;

/** What a target comes to: tried one after the other, each for itself. */
type Wanted =
  | { readonly kind: 'dimm'; readonly dimm: DimmSeen }
  | { readonly kind: 'virtio-mem'; readonly device: VirtioMemSeen }
  | { readonly kind: 'blocks'; readonly name: string; readonly ids: readonly number[] };

export function planRemove(goal: RemoveGoal, input: PlanInput, options: PlanOptions = {}): Plan {
  const infeasible = (summary: string): Plan => planOf(goal, input, { feasible: false, summary });
  const changed = twoLooks(input);
  if (changed !== undefined) return infeasible(changed);
  const bytes = goal.bytes ?? sizeOf(goal.target);
  if (bytes !== undefined) {
    const outcome = outcomeOf(goal.target, bytes, chooseRemoval(input, options, bytes));
    return planOf(goal, input, { ...outcome, warnings: [...sayPicture(input), ...(outcome.warnings ?? [])] });
  }
  if (goal.target.startsWith('size:')) return infeasible(`"${goal.target}": a size has a unit, as in size:4G`);
  const wanted = wantedOf(goal.target, input);
  if (!wanted.ok) return infeasible(wanted.error);
  const cannot = hostCannot(input, wanted.value);
  if (cannot !== undefined) return infeasible(cannot);
  const warnings = warningsFor(goal.target, input, wanted.value);

  let now = new Rehearsal(input.twin);
  const units: UnitDraft[] = [];
  const rejected: Rejected[] = [];
  for (const w of wanted.value) {
    const tried = tryOut(input, options, now, w);
    if (tried.unit === undefined) {
      rejected.push(...tried.rejected);
      continue;
    }
    const short = tried.unit.steps.length === 0 ? undefined : tooLittleLeft(tried.after);
    if (short !== undefined && options.force !== true) {
      rejected.push({ name: tried.unit.name, reason: short });
      continue;
    }
    if (short !== undefined) warnings.push(`${tried.unit.name}: ${short}: expect reclaim, and the OOM killer`);
    warnings.push(...tried.doubts.map((d) => `${tried.unit.name}: ${d}`));
    if (tried.unit.steps.length > 0) units.push(tried.unit);
    now = tried.after;
  }
  return planOf(goal, input, { ...summaryOf(goal.target, units, rejected), warnings, units, rejected });
}

function tryOut(input: PlanInput, options: PlanOptions, now: Rehearsal, w: Wanted): Tried {
  switch (w.kind) {
    case 'dimm':
      return dimmUnit(input, options, now, w.dimm);
    case 'blocks':
      return offlineUnit(input, options, now, w);
    case 'virtio-mem': {
      const { device } = w;
      const unnamed = nameless(device);
      if (unnamed !== undefined)
        return { unit: undefined, rejected: [{ name: `virtio-mem:${device.id}`, reason: unnamed }] };
      const shrink = tryShrink(input, now, device, device.size);
      if (shrink.bytes === device.size)
        return { unit: shrinkUnit(device, shrink.bytes, shrink.pages), after: shrink.after, doubts: [] };
      const reason = `${formatSize(shrink.bytes)} of ${formatSize(device.size)} can be unplugged: ${shrink.stoppedBy}`;
      const forced = shrinkUnit(device, device.size, shrink.pages);
      if (options.force === true) return { unit: forced, after: shrink.after, doubts: [reason] };
      return { unit: undefined, rejected: [{ name: `virtio-mem:${device.id}`, reason }] };
    }
  }
}

// ---------------------------------------------------------------------------------------------------------- targets

function wantedOf(target: string, input: PlanInput): Result<readonly Wanted[], string> {
  const { observation: o } = input;
  const h = o.hypervisor;
  const colon = target.indexOf(':');
  const kind = target.slice(0, colon);
  const rest = target.slice(colon + 1);
  if (kind === 'dimm') {
    const named = h?.dimms.find((d) => d.id === rest);
    if (named !== undefined) return ok([{ kind: 'dimm', dimm: named }]);
    if (h !== undefined && !/^\d+$/.test(rest)) {
      const there = h.dimms.map((d) => `dimm:${d.id}`).join(', ');
      return err(`the hypervisor has no DIMM "${rest}"; ${there === '' ? 'it has none' : `it has ${there}`}`);
    }
  }
  const blocks = input.blocksOf(target);
  if (!blocks.ok) return blocks;
  const ids = blocks.value.map(Number);
  if (kind === 'dimm') {
    const dimm = h?.dimms.find((d) => sameBlocks(blocksWithin(o, d.addr, d.size), ids));
    if (dimm !== undefined) return ok([{ kind: 'dimm', dimm }]);
    return ok([{ kind: 'blocks', name: target, ids }]);
  }
  const seen = new Map(o.blocks.map((b) => [b.id, b]));
  const each = (list: readonly number[]): Wanted[] =>
    list
      .filter((id) => (seen.get(id) as BlockSeen | undefined)?.state !== 'offline')
      .map((id) => ({ kind: 'blocks', name: `block:${id}`, ids: [id] }));
  if (kind !== 'node' || h === undefined) return ok(each(ids));
  const dimms = h.dimms.filter((d) => d.node === Number(rest));
  const devices = h.virtioMem.filter((v) => v.node === Number(rest));
  const ofDevices = new Set([
    ...dimms.flatMap((d) => blocksWithin(o, d.addr, d.size)),
    ...devices.flatMap((v) => blocksWithin(o, v.addr, v.maxSize)),
  ]);
  return ok([
    ...dimms.map((dimm): Wanted => ({ kind: 'dimm', dimm })),
    ...devices.filter((v) => v.size > 0).map((device): Wanted => ({ kind: 'virtio-mem', device })),
    ...each(ids.filter((id) => !ofDevices.has(id))),
  ]);
}

const sameBlocks = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((id, k) => id === b[k]);

/** One sentence when the host has no way to do what the target needs. */
function hostCannot(input: PlanInput, wanted: readonly Wanted[]): string | undefined {
  const { name } = input.host;
  const some = (kind: Wanted['kind']): boolean => wanted.some((w) => w.kind === kind);
  if ((some('blocks') || some('dimm')) && !can(input, 'offline-block'))
    return `${name} cannot take memory blocks offline`;
  if (some('dimm') && !can(input, 'remove-dimm')) return `${name} cannot remove a DIMM`;
  if (some('virtio-mem') && !can(input, 'resize-virtio-mem')) return `${name} cannot resize a virtio-mem device`;
  return undefined;
}

/** What the picture lacks. */
const sayPicture = ({ twin }: PlanInput): string[] =>
  twin.level === 'pages'
    ? []
    : ['page flags were not readable: what is planned rests on zones alone, and nothing was tried'];

function warningsFor(target: string, input: PlanInput, wanted: readonly Wanted[]): string[] {
  const { observation: o } = input;
  const out = sayPicture(input);
  const offlineOnly = new Set(wanted.flatMap((w) => (w.kind === 'blocks' ? w.ids : [])));
  if (offlineOnly.size === 0) return out;
  const covered = (o.hypervisor?.dimms ?? []).find((d) =>
    blocksWithin(o, d.addr, d.size).every((id) => offlineOnly.has(id)),
  );
  if (covered !== undefined) {
    out.push(
      `the blocks cover DIMM ${covered.id}, which stays plugged: dimmer plan remove dimm:${covered.id} takes it out as well`,
    );
  } else {
    const why = target.startsWith('node:') ? 'boot memory cannot be pulled' : 'only blocks are named';
    const giver = o.hypervisor === undefined ? 'nothing is unplugged' : 'the hypervisor gets nothing back';
    out.push(`${plural(offlineOnly.size, 'block')} will be offline and stay in the machine (${why}): ${giver}`);
  }
  return out;
}

function summaryOf(
  target: string,
  units: readonly UnitDraft[],
  rejected: readonly Rejected[],
): Pick<Outcome, 'feasible' | 'summary'> {
  const bytes = units.reduce((n, u) => n + u.bytes, 0);
  const steps = units.flatMap((u) => u.steps);
  const does = `${plural(steps.length, 'step')}, ${plural(sumPages(steps), 'page')} to move, ${Math.round(sumMs(steps))} ms predicted`;
  if (rejected.length === 0) {
    const summary =
      steps.length === 0
        ? `${target} is out of use already: nothing to do`
        : `${target}: ${formatSize(bytes)} would go; ${does}`;
    return { feasible: true, summary };
  }
  const stays = rejected.map((r) => r.name);
  const names = `${stays.slice(0, 3).join(', ')}${stays.length > 3 ? ` and ${stays.length - 3} more` : ''}`;
  const summary =
    units.length === 0
      ? `${target} cannot go now: ${names} would be refused`
      : `of ${target} ${formatSize(bytes)} would go (${does}), but ${names} would be refused`;
  return { feasible: false, summary };
}
