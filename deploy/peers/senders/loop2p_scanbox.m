function line = loop2p_scanbox (address, port, planes, file)
% LOOP2P_SCANBOX  Send each frame that Scanbox shares by its memory-mapped file to a loop2p rig.
%
%   loop2p_scanbox ('192.168.10.2', 30000, 2)     until Scanbox stops imaging; from its mmap folder
%
% To be run in a MATLAB of its own beside Scanbox, with mmap = 1 in Scanbox's configuration and "Memory map" (in later
% versions "plugin") ticked. Needed only where the Scanbox PC does not push frames by TCP itself.
%
% The file, as Scanbox describes it: a header of 16 int16, then the image, uint16, dark at 65535. Header: 1 the frame's
% number, -1 once it may be overwritten, -2 when Scanbox has stopped; 2 lines; 3 columns. So inverted = true in the rig
% file, as for Scanbox's own stream. A frame that Scanbox could not share is a number left out: the line is then begun
% anew, and the rig's frame index goes on by the time that has passed.

  if nargin < 4
    file = 'scanbox.mmap';
  end
  if exist (file, 'file') ~= 2
    error ('loop2p:file', '%s: no such file, expected Scanbox''s memory-mapped file; see mmap in its configuration', file);
  end
  line = loop2p_send_frame ();
  line.address = address;
  line.port = port;
  line.planes = planes;
  map = memmapfile (file, 'Writable', true, 'Format', {'int16', [1 16], 'header'}, 'Repeat', 1);
  lines = 0;
  while true
    number = map.Data.header(1);
    if number == -2
      break
    elseif number < 0
      pause (0.001);
      continue
    end
    if lines == 0
      lines = double (map.Data.header(2));
      columns = double (map.Data.header(3));
      map.Format = {'int16', [1 16], 'header'; 'uint16', [lines columns], 'chA'};
    end
    image = map.Data.chA;
    map.Data.header(1) = -1;
    line = loop2p_send_frame (line, image, mod (double (number), planes));
  end
  line = loop2p_send_frame (line);
end
