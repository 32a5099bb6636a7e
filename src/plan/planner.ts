// Planner: from a goal to a plan.
//
//   goal ──> plan-remove  plan-add  plan-resize  contiguous ──> Plan
//              └── every candidate executed on a fork of the twin, the cheapest chosen, the others' reasons told
//
// Pure: the same twin, observation and goal give the same plan. A goal that cannot be reached gives a plan, too: `feasible`
// is false, `summary` says why, `rejected` names each thing that stands in the way.

import { unreachable } from '#base/assert';
import { planContiguous } from './contiguous.ts';
import type { Goal, Plan } from './plan.ts';
import { planAdd } from './plan-add.ts';
import type { PlanInput, PlanOptions } from './plan-input.ts';
import { planRemove } from './plan-remove.ts';
import { planResize } from './plan-resize.ts';

/** @returns a plan whatever happens; see `feasible`. Cost: some milliseconds for each block that is tried. */
export function plan(goal: Goal, input: PlanInput, options: PlanOptions = {}): Plan {
  switch (goal.verb) {
    case 'remove':
      return planRemove(goal, input, options);
    case 'add':
      return planAdd(goal, input, options);
    case 'resize':
      return planResize(goal, input, options);
    case 'contiguous':
      return planContiguous(goal, input);
    default:
      return unreachable(goal);
  }
}
