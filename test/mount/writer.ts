// What the Linux host starts for a write, for a process that is killed in the middle of one.

export { writerOf } from '../../src/hosts/linux/sysfs-write.ts';
