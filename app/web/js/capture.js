// The camera: opened, and its pictures as JPEG.

import { Problem } from "./api.js";

const TROUBLE = {
  NotAllowedError: ["camera_denied", "The browser does not give this page the camera."],
  NotFoundError: ["camera_missing", "No camera was found on this device."],
  OverconstrainedError: ["camera_missing", "The chosen camera is not there any more."],
  NotReadableError: ["camera_busy", "The camera is there, but cannot be read."],
};

export async function cameras() {
  const found = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return found.filter((one) => one.kind === "videoinput").map((one, i) => ({ id: one.deviceId, name: one.label || `Camera ${i + 1}` }));
}

export class Camera {
  #stream;
  #canvas = document.createElement("canvas");

  // Into a <video>. Throws a Problem.
  static async open(video, id) {
    if (!navigator.mediaDevices) {
      throw new Problem({ code: "camera_insecure", detail: "A browser gives the camera only to pages by https or on the same machine." });
    }
    const made = new Camera();
    try {
      made.#stream = await navigator.mediaDevices.getUserMedia({
        audio: false,
        video: { width: { ideal: 640 }, height: { ideal: 480 }, ...(id ? { deviceId: { exact: id } } : {}) },
      });
    } catch (error) {
      const [code, detail] = TROUBLE[error.name] ?? ["camera_busy", `The camera cannot be opened: ${error.message}.`];
      throw new Problem({ code, detail });
    }
    made.video = video;
    video.srcObject = made.#stream;
    await video.play();
    return made;
  }

  onended(heard) {
    for (const track of this.#stream.getVideoTracks()) track.addEventListener("ended", heard);
  }

  // The picture of this moment, no larger than the model sees; null while there is none.
  async grab({ width, height, quality }) {
    const { videoWidth, videoHeight } = this.video;
    if (!videoWidth) return null;
    const scale = Math.min(1, Math.max(width / videoWidth, height / videoHeight));
    const [wide, tall] = [Math.round(videoWidth * scale), Math.round(videoHeight * scale)];
    if (this.#canvas.width !== wide || this.#canvas.height !== tall) Object.assign(this.#canvas, { width: wide, height: tall });
    const ctx = this.#canvas.getContext("2d", { alpha: false });
    ctx.imageSmoothingQuality = "high";
    ctx.drawImage(this.video, 0, 0, wide, tall);
    const blob = await new Promise((resolve) => this.#canvas.toBlob(resolve, "image/jpeg", quality));
    return blob ? new Uint8Array(await blob.arrayBuffer()) : null;
  }

  close() {
    for (const track of this.#stream.getTracks()) track.stop();
    this.video.srcObject = null;
  }
}
