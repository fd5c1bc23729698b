function line = loop2p_send_frame (line, image, plane)
% LOOP2P_SEND_FRAME  Send one frame to a loop2p rig's imaging service by TCP.
%
%   line = loop2p_send_frame ()                   the settings, to be changed
%   line = loop2p_send_frame (line, image)        send a frame of plane 0
%   line = loop2p_send_frame (line, image, plane) send a frame of that plane, from 0
%   line = loop2p_send_frame (line)               close the connection
%
% image is (lines, pixels), uint8, uint16 or int16. It is sent as the rig's receiver takes it with order = "column" and
% dtype = line.dtype: the left column first, top to bottom, little-endian, no header. The settings:
%
%   address      of the rig's imaging machine
%   port         its image_port
%   planes       how many, as the rig file's microscope has it
%   dtype        'uint16' or 'uint8'
%   offset       added to every pixel first: int16 images may be below 0, and what is below 0 is sent as 0
%   connect_s    how long a connection is waited for, whole seconds from 1
%   retry_s      how long after a failure the next is tried
%   package      Octave: 'sockets' or 'instrument-control'; empty: the first of them that is there
%
% Nothing here raises because of the network: a frame that can't be sent is dropped and counted, and a later one connects
% anew. A connection begins with plane 0, as the receiver takes it without a handshake; where a frame was left out, so
% that planes would change places, it is begun anew. Counts: sent, dropped, connections; what went wrong last: trouble.
% Runs under MATLAB (tcpclient) and GNU Octave (a package, see above).

  if nargin == 0
    line = struct ('address', '127.0.0.1', 'port', 30000, 'planes', 1, 'dtype', 'uint16', 'offset', 0, ...
                   'connect_s', 1, 'retry_s', 0.5, 'package', '', 'sent', 0, 'dropped', 0, 'connections', 0, ...
                   'trouble', '', 'by', '', 'peer', [], 'next_s', 0, 'next_plane', 0);
    return
  end
  if nargin < 2
    line = hang_up (line);
    return
  end
  if nargin < 3
    plane = 0;
  end
  bytes = to_bytes (image, line.dtype, line.offset);
  if ~isempty (line.peer) && plane ~= line.next_plane
    line.trouble = sprintf ('found a frame of plane %d, expected plane %d: connects anew', plane, line.next_plane);
    line = hang_up (line);
  end
  if isempty (line.peer)
    if plane ~= 0 || seconds_now () < line.next_s
      line.dropped = line.dropped + 1;
      return
    end
    line = call (line);
  end
  if ~isempty (line.peer)
    try
      put (line.by, line.peer, bytes);
      line.sent = line.sent + 1;
      line.next_plane = mod (plane + 1, line.planes);
      return
    catch err
      line.trouble = err.message;
      line = hang_up (line);
    end
  end
  line.dropped = line.dropped + 1;
  line.next_s = seconds_now () + line.retry_s;
end

function bytes = to_bytes (image, dtype, offset)
% The bytes of a frame, (1, n) uint8. Conversion of classes rounds and stays within the limits of dtype.
  if ndims (image) ~= 2 || isempty (image)
    error ('loop2p:image', 'found an image of %s, expected (lines, pixels)', mat2str (size (image)));
  end
  if ~any (strcmp (dtype, {'uint8', 'uint16'}))
    error ('loop2p:dtype', 'found dtype %s, expected uint16 or uint8', dtype);
  end
  if offset ~= 0
    image = double (image) + offset;
  end
  values = cast (image(:), dtype);
  [~, ~, endian] = computer ();
  if endian == 'B'
    values = swapbytes (values);
  end
  bytes = reshape (typecast (values, 'uint8'), 1, []);
end

function s = seconds_now ()
% A clock in seconds.
  s = now () * 86400;
end

function line = call (line)
% Connect; no peer and the reason in trouble if that fails.
  try
    if ~is_octave ()
      line.by = 'matlab';
      line.peer = tcpclient (line.address, line.port, 'Timeout', 5, 'ConnectTimeout', line.connect_s, ...
                             'EnableTransferDelay', false);
    elseif loaded (line.package, 'sockets')
      line.by = 'sockets';
      line.peer = dial (line.address, line.port);
    elseif loaded (line.package, 'instrument-control')
      line.by = 'instrument-control';
      line.peer = tcpclient (line.address, line.port, 'Timeout', 5);
    else
      error ('loop2p:package', 'no TCP: expected the Octave package sockets or instrument-control');
    end
    line.connections = line.connections + 1;
    line.trouble = '';
  catch err
    line.peer = [];
    line.trouble = err.message;
  end
end

function yes = is_octave ()
  yes = exist ('OCTAVE_VERSION', 'builtin') ~= 0;
end

function yes = loaded (wanted, name)
% Load a package of Octave; false where it is not installed, or another one is wanted.
  yes = false;
  if ~isempty (wanted) && ~strcmp (wanted, name)
    return
  end
  try
    pkg ('load', name);
    yes = true;
  catch
    % not installed
  end
end

function peer = dial (address, port)
% A connected socket of the package sockets.
  peer = socket (AF_INET (), SOCK_STREAM (), 0);
  if connect (peer, struct ('addr', address, 'port', port)) < 0
    disconnect (peer);
    error ('loop2p:connect', 'nobody answers at %s:%d', address, port);
  end
end

function put (by, peer, bytes)
% Send all bytes, or raise.
  if strcmp (by, 'matlab')
    write (peer, bytes);
    return
  end
  done = 0;
  while done < numel (bytes)
    if strcmp (by, 'sockets')
      n = send (peer, bytes(done + 1:end));
    else
      n = write (peer, bytes(done + 1:end));
    end
    if n <= 0
      error ('loop2p:send', 'the connection is lost');
    end
    done = done + n;
  end
end

function line = hang_up (line)
% Close what is open.
  if isempty (line.peer)
    return
  end
  try
    if strcmp (line.by, 'sockets')
      disconnect (line.peer);
    elseif strcmp (line.by, 'instrument-control')
      fclose (line.peer);
    end
  catch
    % it was closed by the other end
  end
  line.peer = [];
end
