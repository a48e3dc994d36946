// What to do next, by the error's code. The service's own detail says what was wrong.

const ADVICE = {
  unreachable: "Check that it runs and that this device is on its network. What is shown here stays.",
  unauthorized: "Enter the key under Help, or ask whoever runs the service for one.",
  busy: "It has as much to do as it can carry. Try again in a moment, or use another machine.",
  store_unavailable: "Sessions cannot be kept at the moment. Try again in a moment; nothing is lost.",
  service_moves: "It is going down or starting anew. Try again in a moment.",
  upload_too_large: "Cut the video into shorter ones, or raise CRT_UPLOAD_BYTES.",
  upload_stalled: "The connection was too slow. Try again nearer to the service, or with a smaller file.",
  upload_no_space: "The service's disk is full. Make room there and try again.",
  video_not_a_video: "Choose a video file, such as MP4, WebM, MKV, MOV or AVI.",
  video_unsupported: "Convert it to H.264 in MP4, which every camera and phone can write.",
  video_corrupt: "If a recording was cut off, finish or repair it first; a copy from the camera may be whole.",
  video_empty: "Choose another file: there is nothing in this one.",
  video_no_video_stream: "Choose a file with pictures in it, not sound alone.",
  video_too_long: "Cut it into shorter videos, or raise CRT_VIDEO_SECONDS.",
  video_timeout: "Try a shorter or smaller video.",
  session_unknown: "It was deleted, or its name is misspelt. See Streams for those that are there.",
  session_expired: "Begin a new one under another name.",
  session_exists: "Choose another name.",
  stream_owned: "Wait until the other one has left, or take the stream over.",
  stream_rewound: "Come back to go on from there.",
  model_changed: "Begin a new stream: the old memory means nothing to this model.",
  checkpoint_unknown: "Choose a later moment, or keep more states when the stream is made.",
  camera_denied: "Allow the camera for this page in the browser's address bar, then start again.",
  camera_missing: "Connect a camera, then start again.",
  camera_busy: "Another program uses it. Close that one, then start again.",
  camera_insecure: "Open the page by https, or on the machine itself as http://127.0.0.1.",
  key_unfit: "A browser can send only letters, digits and -._~ in it: ask for a key like that.",
  internal: "Try again. If it stays, whoever runs the service finds it in the log under this number.",
};

export const advice = (problem) => ADVICE[problem.code] ?? "Try again; if it stays, see the API's documentation for this code.";
