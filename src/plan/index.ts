// dimmer/plan: what could be done to a machine, compared by doing it on forks of its twin.

export { HELPS, type Help } from './help.ts';
export { compareRemoval, type LeftGroup, type RemovalComparison, type RemovalStage } from './removal.ts';
