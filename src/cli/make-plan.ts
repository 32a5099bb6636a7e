// makePlan: a twin and a goal put together into what the planner takes. Composition only; the planner is src/plan.
//
//   Twin ── its capture's tree ──observe──> Observation ┐
//     └──────────────────────────────────────────────────┼── plan(goal, ...) ──> Plan
//   targets ── query layer ──> blocks ───────────────────┘

import { err, ok, type Result } from '#base/result';
import { type Goal, observe, type Plan, type PlanInput, type PlanOptions, plan } from '#plan/index';
import { blocksOfTarget, parseTarget } from '#query/index';
import type { Twin } from '#twin/index';
import { type Complaint, EXIT } from './exit-code.ts';

/** What plans on this twin are made from; a capture that cannot be observed (no meminfo) is unsupported. */
export function planInputOf(twin: Twin): Result<PlanInput, Complaint> {
  const { origin, tree } = twin.capture;
  const observed = observe(tree);
  if (!observed.ok) return err({ exit: EXIT.UNSUPPORTED, sentence: `${origin.name}: ${observed.error}` });
  const observation = observed.value;
  return ok({
    twin,
    observation,
    host: { kind: hostKind(origin.kind), name: origin.name, kernel: twin.kernel },
    blocksOf: (text) => {
      const target = text === 'all' ? ok({ kind: 'all' as const }) : parseTarget(text);
      const blocks = target.ok ? blocksOfTarget(twin, target.value) : target;
      return blocks.ok ? blocks : err(blocks.error.sentence);
    },
  });
}

const hostKind = (origin: Twin['capture']['origin']['kind']): string =>
  origin === 'live' ? 'linux' : origin === 'guest' ? 'qemu' : 'capture';

/** @returns a plan whatever happens; see `feasible` */
export function makePlan(goal: Goal, input: PlanInput, options: PlanOptions): Plan {
  return plan(goal, input, options);
}
