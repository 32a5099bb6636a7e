// dimmer/control: plans done to machines. A Host says and does; execute and resume do a plan to it, journalled and undone.

export { type ExecuteOptions, execute, type Progress, resume } from './executor.ts';
export type { ActDone, Clock, Host, HostFailure, HostInfo, Limits } from './host.ts';
export type { ExecutionEnd, JournalEntry, JournalLine, JournalSink } from './journal.ts';
export { decodeJournal } from './journal-text.ts';
export type { Lock } from './lock.ts';
export type { ExecutionReport } from './report.ts';
