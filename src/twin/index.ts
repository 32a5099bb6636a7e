// dimmer/twin: a Machine built from a capture, and what it answers.

export { buildTwin, type TwinOptions } from './build.ts';
export { type ExplainGroup, explain } from './explain.ts';
export { type JointAnswer, jointly } from './joint.ts';
export type { Comparison, Figure, Provenance } from './provenance.ts';
export type { Remedy } from './remedy.ts';
export type { BlockEvidence, CountersTwin, PagesTwin, Twin, TwinRefusal } from './twin.ts';
export { type BlockVerdict, Judge, type JudgeHelp, judgeAll, type Verdict, type VerdictCode } from './verdict.ts';
