import { type Device, device as chooseDevice } from './device.js'
import { native } from './native.js'

/** For tests and benchmarks. */
export const debug = {
  /** The kernel that ran last on a device, such as `cpu.avx512.selective_scan.bld`. Waits for the queue. */
  lastKernel(device?: Device | string): string {
    return native.lastKernel(chooseDevice(device).id)
  },
  /** Whether new memory is filled with NaN (bytes of 0xff), so that what a kernel leaves unwritten shows. */
  poison(on: boolean): void {
    native.poison(on)
  },
}
