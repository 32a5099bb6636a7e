// dimmer/plan: what could be done to a machine, compared by doing it on forks of its twin; and the plan that does it.

export { checkPlan, readPlan } from './check-plan.ts';
export { type ContiguousGoal, planContiguous } from './contiguous.ts';
export { addGoal, removeGoal, resizeGoal, sizeWord } from './goal.ts';
export { HELPS, type Help } from './help.ts';
export {
  type BlockSeen,
  blocksWithin,
  type DimmSeen,
  type HypervisorSeen,
  hashLines,
  type Observation,
  observe,
  QMP_FILES,
  stateLines,
  type VirtioMemSeen,
} from './observation.ts';
export {
  type Action,
  type Condition,
  type Goal,
  holds,
  type OnlineZone,
  PLAN_VERSION,
  type Plan,
  type Rejected,
  type Step,
  sayAction,
  sayCondition,
  type Unit,
} from './plan.ts';
export type { PlanInput, PlanOptions } from './plan-input.ts';
export { plan } from './planner.ts';
export { compareRemoval, type LeftGroup, type RemovalComparison, type RemovalStage } from './removal.ts';
