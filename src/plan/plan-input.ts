// What a plan is made from, and the frame that every plan has.
//
//   twin          the machine as an engine: every candidate is executed on a fork of it
//   observation   the machine as the executor will see it: what the plan assumes
//   host          whose it is, and which actions it can do
//   blocksOf      what block:32-39, range:.., node:1, zone:1/Normal and dimm:0 name: the query layer's, as an argument
//
// The twin and the observation are two looks at one machine, taken one after the other. Where they differ in a block the
// machine changed in between, and a plan made from both would be about neither: planners refuse it (`twoLooks`).

import type { Result } from '#base/result';
import type { BlockId } from '#mm/index';
import type { BlockVerdict, Twin } from '#twin/index';
import { hashLines, type Observation, stateLines } from './observation.ts';
import { type Action, type Goal, PLAN_VERSION, type Plan, type Rejected, type Step, type Unit } from './plan.ts';

export type PlanInput = {
  readonly twin: Twin;
  readonly observation: Observation;
  readonly host: Plan['host'] & {
    /** Actions that the host can do; default: all that its observation has devices for. */
    readonly can?: ReadonlySet<Action['do']>;
  };
  /** One sentence where the machine has no such thing. Never asked about size:, nor about a hypervisor's DIMM. */
  readonly blocksOf: (target: string) => Result<readonly BlockId[], string>;
};

export type PlanOptions = {
  /** Plans what the twin says will be refused; the risk is told. Default false. */
  readonly force?: boolean;
  /** Zone of added memory. Default 'movable': it can leave again. */
  readonly zone?: 'movable' | 'kernel';
};

/** A step before it has its number. */
export type StepDraft = Omit<Step, 'n'>;
export type UnitDraft = Omit<Unit, 'steps'> & { readonly steps: readonly StepDraft[] };

export type Outcome = {
  readonly feasible: boolean;
  readonly summary: string;
  readonly warnings?: readonly string[];
  readonly units?: readonly UnitDraft[];
  readonly rejected?: readonly Rejected[];
};

/** The plan around what a planner came to: steps numbered, the state it assumes. */
export function planOf(goal: Goal, input: PlanInput, outcome: Outcome): Plan {
  const lines = stateLines(input.observation);
  const { kind, name, kernel } = input.host;
  let n = 0;
  return {
    dimmer: 'plan',
    version: PLAN_VERSION,
    goal,
    host: { kind, name, kernel },
    assumes: { hash: hashLines(lines), lines },
    feasible: outcome.feasible,
    summary: outcome.summary,
    warnings: outcome.warnings ?? [],
    units: (outcome.units ?? []).map((u) => ({ ...u, steps: u.steps.map((s) => ({ n: ++n, ...s })) })),
    rejected: outcome.rejected ?? [],
  };
}

/** May this action be part of a plan for the host? */
export const can = (input: PlanInput, action: Action['do']): boolean => input.host.can?.has(action) ?? true;

/** One sentence when twin and observation disagree about a block: the machine changed between the two looks. */
export function twoLooks(input: PlanInput): string | undefined {
  const { twin, observation } = input;
  const seen = new Map(observation.blocks.map((b) => [b.id, b.state]));
  for (const b of twin.blocks) {
    const state = seen.get(b.id);
    if (state === b.state) continue;
    return `the machine changed while it was read: block ${b.id} was ${b.state}, then ${state ?? 'gone'}; plan again`;
  }
  const known = new Set<number>(twin.blocks.map((b) => b.id));
  const extra = observation.blocks.find((b) => !known.has(b.id));
  return extra === undefined
    ? undefined
    : `the machine changed while it was read: block ${extra.id} appeared; plan again`;
}

/** Verdicts in the order in which blocks of one unit go: most doubtful first, then most pages to move. */
export function worstFirst(a: BlockVerdict, b: BlockVerdict): number {
  const doubt = (v: BlockVerdict): number => (v.verdict === 'no' ? 2 : v.verdict === 'maybe' ? 1 : 0);
  return doubt(b) - doubt(a) || b.pagesToMigrate.value - a.pagesToMigrate.value || a.block - b.block;
}
