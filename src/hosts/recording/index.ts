// dimmer/hosts/recording: a Host written down call by call, and played back.

export { type PlayOptions, playHost } from './play-host.ts';
export { type RecordOptions, recordHost } from './record-host.ts';
