// Givers: devices of the hypervisor that could give memory, each tried alone; and several of them together on one fork.
//
//   DIMM         all of it or nothing        one option
//   virtio-mem   as far as it shrinks        an option after each memory block on the way, and anything in between
//
//   giversOf ──tried alone──> options with cost ──a set is chosen (cheapest-set.ts)──> giveTogether ──> units
//                                                    ▲                                   │ one does not go after the others
//                                                    └────────── without that one ───────┘
//
// What was tried alone need not go together: each takes free memory, and moves pages to where the next one may be. So the set is
// done once more, cheap ones first, on one fork. Whoever is refused there is named, and the next set is chosen without it.

import { formatSize, plural } from '#base/format';
import type { Option } from './cheapest-set.ts';
import type { DimmSeen, VirtioMemSeen } from './observation.ts';
import type { Rejected } from './plan.ts';
import { can, type PlanInput, type PlanOptions, type UnitDraft } from './plan-input.ts';
import { dimmUnit } from './plan-remove-unit.ts';
import { nameless, shrinkUnit, tryShrink } from './plan-virtio-mem.ts';
import type { Rehearsal } from './rehearsal.ts';
import { sumMs } from './steps.ts';

export type Made = { readonly unit: UnitDraft; readonly after: Rehearsal; readonly doubts: readonly string[] };

export type Giver = {
  readonly name: string;
  readonly options: readonly Option[];
  /** Bytes for each option, ascending. */
  readonly bytes: readonly number[];
  /** What it gives in between is a multiple of this; undefined: nothing in between. */
  readonly piece: number | undefined;
  /** A verdict was maybe. */
  readonly doubtful: boolean;
  /** Does it on a copy of `before`. @returns one sentence when it does not go */
  readonly make: (before: Rehearsal, bytes: number) => Made | string;
};

export type Scale = {
  /** Bytes that are wanted. */
  readonly bytes: number;
  /** Are they the least that is to go, or the most? */
  readonly bound: 'at-least' | 'at-most';
  /** Bytes of one unit of the choice, and how many are wanted. */
  readonly unit: number;
  readonly units: number;
};

const MAX_UNITS = 8192;

/** Units of 2 MiB, what devices are made of; larger ones where there would be too many to compute with. */
export function scaleFor(bytes: number, bound: Scale['bound']): Scale {
  let unit = 2 ** 21;
  while (bytes > unit * MAX_UNITS) unit *= 2;
  return { bytes, bound, unit, units: bound === 'at-least' ? Math.ceil(bytes / unit) : Math.floor(bytes / unit) };
}

/** Rounded so that a choice never promises more than it gives, nor takes more than it may. */
function unitsOf(s: Scale, bytes: number): number {
  if (s.bound === 'at-most') return Math.ceil(bytes / s.unit);
  return bytes >= s.bytes ? s.units : Math.floor(bytes / s.unit);
}

/** Every DIMM and virtio-mem device, tried alone. Cost: that of trying each. */
export function giversOf(
  input: PlanInput,
  start: Rehearsal,
  scale: Scale,
): { readonly givers: readonly Giver[]; readonly rejected: readonly Rejected[] } {
  const h = input.observation.hypervisor;
  const all = [
    ...(h?.dimms ?? []).map((d) => dimmGiver(input, start, d, scale)),
    ...(h?.virtioMem ?? []).filter((v) => v.size > 0).map((v) => deviceGiver(input, start, v, scale)),
  ];
  return {
    givers: all.filter((x): x is Giver => 'make' in x),
    rejected: all.filter((x): x is Rejected => 'reason' in x),
  };
}

function dimmGiver(input: PlanInput, start: Rehearsal, d: DimmSeen, scale: Scale): Giver | Rejected {
  const name = `dimm:${d.id}`;
  if (!can(input, 'remove-dimm') || !can(input, 'offline-block'))
    return { name, reason: `${input.host.name} cannot remove a DIMM` };
  if (scale.bound === 'at-most' && d.size > scale.bytes)
    return { name, reason: `${formatSize(d.size)} are more than is to go` };
  const alone = dimmUnit(input, {}, start, d);
  if (alone.unit === undefined) {
    const [first] = alone.rejected;
    const more = alone.rejected.length > 1 ? `, and ${plural(alone.rejected.length - 1, 'more block')}` : '';
    return { name, reason: `${first?.name}: ${first?.reason}${more}` };
  }
  return {
    name,
    options: [{ units: unitsOf(scale, d.size), cost: sumMs(alone.unit.steps) }],
    bytes: [d.size],
    piece: undefined,
    doubtful: alone.doubts.length > 0,
    make: (before) => {
      const tried = dimmUnit(input, {}, before, d);
      return tried.unit === undefined ? (tried.rejected[0]?.reason ?? 'refused') : tried;
    },
  };
}

function deviceGiver(input: PlanInput, start: Rehearsal, v: VirtioMemSeen, scale: Scale): Giver | Rejected {
  const name = `virtio-mem:${v.id}`;
  if (!can(input, 'resize-virtio-mem')) return { name, reason: `${input.host.name} cannot resize a virtio-mem device` };
  const unnamed = nameless(v);
  if (unnamed !== undefined) return { name, reason: unnamed };
  const wanted = scale.bound === 'at-least' ? scale.bytes : Math.floor(scale.bytes / v.blockSize) * v.blockSize;
  const alone = tryShrink(input, start, v, wanted);
  if (alone.bytes === 0)
    return { name, reason: alone.stoppedBy ?? `it shrinks in steps of ${formatSize(v.blockSize)}` };
  return {
    name,
    options: alone.stages.map((s) => ({
      units: unitsOf(scale, s.bytes),
      cost: sumMs(shrinkUnit(v, s.bytes, s.pages).steps),
    })),
    bytes: alone.stages.map((s) => s.bytes),
    piece: v.blockSize,
    doubtful: false,
    make: (before, bytes) => {
      const tried = tryShrink(input, before, v, bytes);
      if (tried.bytes < bytes) return `${formatSize(tried.bytes)} only: ${tried.stoppedBy}`;
      return { unit: shrinkUnit(v, tried.bytes, tried.pages), after: tried.after, doubts: [] };
    },
  };
}

// --------------------------------------------------------------------------------------------------------- together

export type Pick = { readonly giver: Giver; bytes: number; readonly cost: number };

/** A choice with its bytes, nothing for those that are not in it. */
export const picksOf = (givers: readonly Giver[], choice: readonly number[]): Pick[] =>
  givers.map((giver, k) => {
    const at = choice[k] as number; // one entry for each giver
    return { giver, bytes: giver.bytes[at] ?? 0, cost: giver.options[at]?.cost ?? 0 };
  });

export type Together = {
  readonly units: readonly UnitDraft[];
  readonly warnings: readonly string[];
  readonly bytes: number;
  readonly after: Rehearsal;
};

/** Does the picks on one fork, cheap ones first. @returns the one that does not go there, and why */
export function giveTogether(options: PlanOptions, start: Rehearsal, picks: readonly Pick[]): Together | Rejected {
  const units: UnitDraft[] = [];
  const warnings: string[] = [];
  let after = start;
  for (const { giver, bytes } of picks.filter((p) => p.bytes > 0).sort((a, b) => a.cost - b.cost)) {
    const made = giver.make(after, bytes);
    if (typeof made === 'string')
      return { name: giver.name, reason: after === start ? made : `once others left: ${made}` };
    const short = tooLittleLeft(made.after);
    if (short !== undefined && options.force !== true) return { name: giver.name, reason: short };
    if (short !== undefined) warnings.push(`${giver.name}: ${short}`);
    units.push(made.unit);
    warnings.push(...made.doubts.map((d) => `${giver.name}: ${d}`));
    after = made.after;
  }
  return { units, warnings, after, bytes: units.reduce((n, u) => n + u.bytes, 0) };
}

/** One sentence when free memory would fall below what the high watermarks ask for. */
export function tooLittleLeft(after: Rehearsal): string | undefined {
  const spare = after.toSpare();
  if (spare === undefined || spare >= 0) return undefined;
  return `it would leave ${formatSize(-spare)} less free memory than the high watermarks ask for`;
}
